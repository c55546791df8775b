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
    if loopback && headers.get_all(header::HOST).iter().count() > 1 {
        return Err(Problem::new(Reason::BadRequest, "The request has several Host headers; send one."));
    }
    if loopback && !host(request, headers).is_some_and(is_local) {
        return forbidden("The Host is not this pod; use localhost, 127.0.0.1 or [::1].");
    }
    Ok(())
}

fn host<'a>(request: &'a Request<Incoming>, headers: &'a HeaderMap) -> Option<&'a str> {
    let named = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    match request.version() {
        Version::HTTP_2 => request.uri().authority().map(hyper::http::uri::Authority::as_str).or(named),
        _ => named,
    }
}

fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost") || name == "127.0.0.1" || name == "[::1]"
}

#[cfg(test)]
mod tests {
    use super::is_local;

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
