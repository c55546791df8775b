//! Requests that must not be taken, by their heads alone.
use hyper::{HeaderMap, Request, Version, body::Incoming, header};

use crate::problem::{Problem, Reason};

/// Longest path and query.
const URI: usize = 2048;

/// Refuses requests of pages in a browser and for other hosts (DNS rebinding, SSRF).
///
/// A Content-Length beside a Transfer-Encoding does not reach us: hyper drops it and reads the body as chunked, as RFC 9112, 6.3
/// allows (`docs/decisions/005-two-lengths.md`).
pub(crate) fn check(request: &Request<Incoming>, loopback: bool) -> Result<(), Problem> {
    let headers = request.headers();
    let forbidden = |detail: &str| Err(Problem::new(Reason::Forbidden, detail));
    check_coding(headers)?;
    if request.uri().path_and_query().is_some_and(|path| path.as_str().len() > URI) {
        return Err(Problem::new(Reason::UriTooLong, format!("The path is longer than {URI} bytes.")));
    }
    if loopback && headers.contains_key(header::ORIGIN) {
        return forbidden(
            "The request has an Origin header, as pages in a browser send it; send events from the application itself.",
        );
    }
    if loopback && headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site") {
        return forbidden(
            "The request comes from a page of another site (Sec-Fetch-Site); send events from the application itself.",
        );
    }
    if loopback {
        check_hosts(headers)?;
    }
    if loopback && !host(request, headers).is_some_and(is_local) {
        return forbidden("The Host is not this pod; use localhost, 127.0.0.1 or [::1].");
    }
    Ok(())
}

/// Refuses a Transfer-Encoding other than `chunked`: the server decodes no other.
fn check_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let (first, more) = (codings.next(), codings.next());
    if more.is_none() && first.is_none_or(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")) {
        return Ok(());
    }
    Err(Problem::new(Reason::BadRequest, "The Transfer-Encoding is not chunked alone; compress with Content-Encoding."))
}

fn check_hosts(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.get_all(header::HOST).iter().count() > 1 {
        return Err(Problem::new(Reason::BadRequest, "The request has several Host headers; send one."));
    }
    Ok(())
}

/// Refuses requests to the status port that a page in a browser makes, by an Origin or by a name of its own for this pod (DNS rebinding). Pods' addresses,
/// `localhost` and names within the cluster are good.
pub(crate) fn check_status(request: &Request<Incoming>) -> Result<(), Problem> {
    let headers = request.headers();
    check_coding(headers)?;
    let is_cross = headers.get("sec-fetch-site").is_some_and(|site| site != "none" && site != "same-origin");
    if headers.contains_key(header::ORIGIN) || is_cross {
        return Err(Problem::new(Reason::Forbidden, "The request comes from a page in a browser; ask with curl or a scraper."));
    }
    check_hosts(headers)?;
    let named = headers.contains_key(header::HOST) || request.version() == Version::HTTP_2;
    if named && !host(request, headers).is_some_and(is_within) {
        let detail = "The Host is no address, localhost or name within the cluster; ask by the pod's address or by port-forward.";
        return Err(Problem::new(Reason::Forbidden, detail));
    }
    Ok(())
}

/// An address, or a name that no public zone has: one word, `….svc`, `….local`, `….internal`.
fn is_within(host: &str) -> bool {
    let name = name_of(host);
    if is_local(host) || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok() {
        return true;
    }
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let mut labels = name.trim_end_matches('.').rsplit('.');
    let last = labels.next().unwrap_or_default();
    let is_private = ["svc", "local", "internal", "pod"].iter().any(|private| last.eq_ignore_ascii_case(private));
    name.split('.').all(|label| label.is_empty() || is_label(label)) && is_label(last) && (is_private || labels.next().is_none())
}

fn host<'a>(request: &'a Request<Incoming>, headers: &'a HeaderMap) -> Option<&'a str> {
    let named = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    match request.version() {
        Version::HTTP_2 => request.uri().authority().map(hyper::http::uri::Authority::as_str).or(named),
        _ => named,
    }
}

/// Without the port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

fn is_local(host: &str) -> bool {
    let name = name_of(host);
    name.eq_ignore_ascii_case("localhost") || name == "127.0.0.1" || name == "[::1]"
}

#[cfg(test)]
mod tests {
    use super::{is_local, is_within};

    #[test]
    fn names_that_somebody_may_own_are_not_within_the_cluster() {
        for host in [
            "10.1.2.3:9601",
            "[fd00::1]:9601",
            "localhost:9601",
            "shop",
            "shop.team-a.svc:9601",
            "shop.team-a.svc.cluster.local.",
        ] {
            assert!(is_within(host), "{host}");
        }
        for host in ["", "evil.example", "shop.team-a.svc.evil.example:9601", "svc.example", "a b", "10.1.2.3.nip.io", "."] {
            assert!(!is_within(host), "{host}");
        }
    }

    #[test]
    fn only_this_pods_own_names_are_local() {
        for host in ["localhost", "LOCALHOST:9600", "127.0.0.1", "127.0.0.1:9600", "[::1]", "[::1]:9600"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil:80", "10.0.0.1", "::1", "0.0.0.0"] {
            assert!(!is_local(host), "{host}");
        }
    }
}
