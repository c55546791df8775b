//! Tokens of known providers: one row each, by the formats that the providers document.
//!
//! A row has an anchor, which the one pass over the text looks for, and the shape of what follows. Most are a run of one set of characters, which
//! costs no regex. Anchors are case-sensitive; nothing that is part of a word may stand before them.
use std::sync::OnceLock;

use regex::Regex;

use super::pattern;

/// Characters of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Set {
    /// `0-9a-f`
    Hex,
    /// `0-9a-fA-F`
    AnyHex,
    /// `0-9a-z`
    Lower,
    /// `0-9A-Z`
    Upper,
    /// `0-9A-Za-z`
    Alnum,
    /// and `_`
    Word,
    /// and `-`
    Url,
    /// and `.`
    Dots,
    /// `0-9A-Za-z+/=_-`
    Base64,
    /// Whatever tokens are made of.
    Any,
}

/// What follows an anchor.
pub(super) enum Shape {
    /// A run of this set, of so many bytes; longer ones are something else.
    Run(Set, usize, usize),
    /// A run that must have a digit.
    Mixed(Set, usize, usize),
    /// A regex that begins at the anchor; its first group, if it has one, is the secret.
    Regex(&'static str),
    /// The same, but it may begin before the anchor.
    Around(&'static str),
}

/// A provider's token.
pub(super) struct Row {
    /// For people.
    #[allow(dead_code)]
    pub(super) id: &'static str,
    pub(super) anchor: &'static str,
    pub(super) shape: Shape,
}

const LONG: usize = 4096;

const fn run(id: &'static str, anchor: &'static str, set: Set, least: usize, most: usize) -> Row {
    Row { id, anchor, shape: Shape::Run(set, least, most) }
}

const fn mixed(id: &'static str, anchor: &'static str, set: Set, least: usize, most: usize) -> Row {
    Row { id, anchor, shape: Shape::Mixed(set, least, most) }
}

const fn regex(id: &'static str, anchor: &'static str, text: &'static str) -> Row {
    Row { id, anchor, shape: Shape::Regex(text) }
}

const fn around(id: &'static str, anchor: &'static str, text: &'static str) -> Row {
    Row { id, anchor, shape: Shape::Around(text) }
}

/// All that are known.
pub(super) const ROWS: &[Row] = &[
    // Code platforms.
    run("github-pat", "ghp_", Set::Alnum, 30, LONG),
    run("github-oauth", "gho_", Set::Alnum, 30, LONG),
    run("github-user", "ghu_", Set::Alnum, 30, LONG),
    run("github-server", "ghs_", Set::Alnum, 30, LONG),
    run("github-refresh", "ghr_", Set::Alnum, 30, LONG),
    run("github-fine-grained", "github_pat_", Set::Word, 22, LONG),
    run("gitlab-pat", "glpat-", Set::Dots, 20, LONG),
    run("gitlab-deploy", "gldt-", Set::Dots, 20, LONG),
    run("gitlab-trigger", "glptt-", Set::Dots, 20, LONG),
    run("gitlab-feed", "glft-", Set::Dots, 20, LONG),
    run("gitlab-scim", "glsoat-", Set::Dots, 20, LONG),
    run("gitlab-runner", "glrt-", Set::Dots, 20, LONG),
    run("gitlab-runner-registration", "glrtr-", Set::Dots, 20, LONG),
    run("gitlab-runner-old", "GR1348941", Set::Url, 20, LONG),
    run("gitlab-incoming-mail", "glimt-", Set::Dots, 20, LONG),
    run("gitlab-agent", "glagent-", Set::Dots, 20, LONG),
    run("gitlab-ci-build", "glcbt-", Set::Dots, 16, LONG),
    run("gitlab-flags", "glffct-", Set::Dots, 20, LONG),
    run("gitlab-oauth", "gloas-", Set::Dots, 20, LONG),
    run("bitbucket-app", "ATBB", Set::Alnum, 28, LONG),
    run("atlassian-api", "ATATT3", Set::Any, 60, LONG),
    run("atlassian-token", "ATCTT3", Set::Any, 60, LONG),
    run("trello", "ATTA", Set::AnyHex, 64, LONG),
    run("sourcegraph", "sgp_", Set::Word, 40, LONG),
    run("sourcegraph-service", "slk_", Set::Hex, 64, 64),
    run("sourcegraph-enterprise", "sgd_", Set::Hex, 64, 64),
    // Package registries.
    run("npm", "npm_", Set::Alnum, 30, LONG),
    run("pypi", "pypi-AgE", Set::Url, 16, LONG),
    run("rubygems", "rubygems_", Set::Hex, 48, 48),
    mixed("crates", "cio", Set::Alnum, 32, 32),
    mixed("nuget", "oy2", Set::Lower, 43, 43),
    run("docker-pat", "dckr_pat_", Set::Url, 20, LONG),
    run("docker-org", "dckr_oat_", Set::Url, 20, LONG),
    run("clojars", "CLOJARS_", Set::Alnum, 60, 60),
    run("jsr", "jsrp_", Set::Alnum, 20, LONG),
    run("jfrog-key", "AKCp", Set::Alnum, 60, LONG),
    run("jfrog-reference", "cmVmdGtuOj", Set::Base64, 40, LONG),
    // Clouds.
    run("aws-key", "AKIA", Set::Upper, 16, 124),
    run("aws-session-key", "ASIA", Set::Upper, 16, 124),
    run("aws-bearer", "ABIA", Set::Upper, 16, 124),
    run("aws-context", "ACCA", Set::Upper, 16, 124),
    run("aws-session", "IQoJb3JpZ2lu", Set::Base64, 100, LONG),
    run("aws-session-old", "FwoGZXIvYXdz", Set::Base64, 100, LONG),
    run("aws-bedrock", "ABSK", Set::Base64, 100, LONG),
    regex("amazon-mws", "amzn.mws.", "^amzn\\.mws\\.[0-9a-f-]{36}"),
    run("amazon-oauth-secret", "amzn1.oa2-cs.v1.", Set::Hex, 64, 64),
    run("google-api", "AIza", Set::Url, 35, LONG),
    run("google-oauth", "ya29.", Set::Dots, 20, LONG),
    run("google-oauth-secret", "GOCSPX-", Set::Url, 28, LONG),
    run("google-refresh", "1//0", Set::Url, 40, LONG),
    around("azure-ad", "Q~", r"(?:^|[^A-Za-z0-9_~.-])([A-Za-z0-9_~.]{3}[0-9]Q~[A-Za-z0-9_~.-]{30,36})"),
    regex("azure-devops", "AZDO", "^AZDO[A-Za-z0-9]{4}"),
    run("azure-storage", "AccountKey=", Set::Base64, 40, LONG),
    run("digitalocean-pat", "dop_v1_", Set::Hex, 64, 64),
    run("digitalocean-oauth", "doo_v1_", Set::Hex, 64, 64),
    run("digitalocean-refresh", "dor_v1_", Set::Hex, 64, 64),
    run("heroku", "HRKU-", Set::Url, 36, LONG),
    regex("cloudflare-ca", "v1.0-", "^v1\\.0-[0-9a-f]{24}-[0-9a-f]{146}"),
    run("alibaba", "LTAI", Set::Alnum, 16, 26),
    mixed("tencent", "AKID", Set::Alnum, 32, 40),
    mixed("yandex-key", "AQVN", Set::Url, 35, 40),
    run("yandex-passport", "y0_", Set::Url, 50, LONG),
    regex("yandex-iam", "t1.", r"^t1\.[A-Z0-9a-z_-]{20,}={0,2}\.[A-Za-z0-9_-]{60,}={0,2}"),
    run("scaleway", "SCW", Set::Upper, 17, 17),
    run("volcengine", "AKLT", Set::Alnum, 40, LONG),
    run("baidu", "ALTAK", Set::Alnum, 21, 24),
    run("vultr", "VULTR_", Set::Upper, 36, LONG),
    run("netlify", "nfp_", Set::Alnum, 36, LONG),
    run("netlify-oauth", "nfo_", Set::Alnum, 36, LONG),
    run("vercel-blob", "vercel_blob_rw_", Set::Word, 30, LONG),
    run("vercel", "vcp_", Set::Alnum, 24, LONG),
    run("render", "rnd_", Set::Alnum, 24, LONG),
    regex("fly", "fm1", "^fm1[ar]_[A-Za-z0-9+/=_-]{60,}"),
    run("fly-macaroon", "fm2_", Set::Base64, 60, LONG),
    run("fly-old", "fo1_", Set::Url, 40, LONG),
    run("deno", "ddp_", Set::Alnum, 36, 36),
    run("scalingo", "tk-us-", Set::Url, 48, 48),
    run("upcloud", "ucat_", Set::Alnum, 20, LONG),
    run("ibm", "bx:", Set::Alnum, 40, LONG),
    // Data and infrastructure.
    run("databricks", "dapi", Set::Hex, 32, 34),
    run("planetscale-token", "pscale_tkn_", Set::Any, 32, LONG),
    run("planetscale-oauth", "pscale_oauth_", Set::Any, 32, LONG),
    run("planetscale-password", "pscale_pw_", Set::Any, 32, LONG),
    run("supabase", "sbp_", Set::Hex, 40, 40),
    run("supabase-secret", "sb_secret_", Set::Url, 20, LONG),
    run("neon", "napi_", Set::Lower, 40, LONG),
    run("atlas", "mdb_sa_sk_", Set::Url, 30, LONG),
    run("aiven", "AVNS_", Set::Url, 16, LONG),
    run("confluent", "cflt", Set::Base64, 60, 60),
    run("vault-service", "hvs.", Set::Url, 24, LONG),
    run("vault-batch", "hvb.", Set::Url, 24, LONG),
    run("vault-recovery", "hvr.", Set::Url, 24, LONG),
    around("terraform", ".atlasv1.", r"([A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{60,})"),
    run("pulumi", "pul-", Set::Hex, 40, 40),
    regex("doppler", "dp.", r"^dp\.(?:pt|st|ct|sa|scim|audit)\.(?:[a-z0-9_-]+\.)?[A-Za-z0-9]{40,44}"),
    run("infracost", "ico-", Set::Alnum, 32, 32),
    run("onepassword", "ops_eyJ", Set::Base64, 200, LONG),
    run("onepassword-key", "A3-", Set::Url, 30, 40),
    run("age", "AGE-SECRET-KEY-1", Set::Upper, 58, 59),
    run("openshift", "sha256~", Set::Url, 43, 43),
    around("k3s", "::server:", r"(K10[0-9a-f]{32,64}::server:[A-Za-z0-9]{20,})"),
    run("tailscale", "tskey-", Set::Url, 20, LONG),
    regex("defined", "dnkey-", "^dnkey-[A-Za-z0-9=_-]{26}-[A-Za-z0-9=_-]{52}"),
    run("ngrok", "ngrok_", Set::Word, 40, LONG),
    run("octopus", "API-", Set::Upper, 25, 26),
    run("prefect", "pnu_", Set::Alnum, 36, 36),
    run("teleport", "teleport-", Set::Hex, 32, LONG),
    run("twingate", "tg_", Set::Alnum, 60, LONG),
    regex("bedrock-short", "bedrock-api-key-", "^bedrock-api-key-[A-Za-z0-9+/=]{20,}"),
    regex("harness-pat", "pat.", r"^pat\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9]{24}\.[A-Za-z0-9]{20}"),
    run("clickhouse", "4b1d", Set::Alnum, 38, 38),
    run("settlemint-service", "sm_sat_", Set::Alnum, 16, 16),
    run("stripe-prod", "sk_prod_", Set::Alnum, 16, LONG),
    run("stripe-restricted-prod", "rk_prod_", Set::Alnum, 16, LONG),
    run("jfrog-reference-any", "cmVmd", Set::Base64, 59, LONG),
    regex("harness", "at.", r"^at\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9]{24}\.[A-Za-z0-9]{20}"),
    // Continuous integration and quality.
    run("circleci", "CCIPAT_", Set::Word, 40, LONG),
    run("circleci-project", "CCIPRJ_", Set::Word, 40, LONG),
    run("buildkite", "bkua_", Set::Hex, 40, 40),
    run("buildkite-agent", "bkct_", Set::Any, 40, LONG),
    run("sonar-project", "sqp_", Set::Hex, 40, 40),
    run("sonar-user", "squ_", Set::Hex, 40, 40),
    run("sonar-analysis", "sqa_", Set::Hex, 40, 40),
    run("snyk", "snyk_uat.", Set::Any, 30, LONG),
    run("sentry-org", "sntrys_", Set::Any, 60, LONG),
    run("sentry-user", "sntryu_", Set::Hex, 64, 64),
    run("newrelic-user", "NRAK-", Set::Upper, 27, 27),
    run("newrelic-insert", "NRII-", Set::Url, 32, 32),
    run("newrelic-query", "NRIQ-", Set::Url, 32, 32),
    run("newrelic-browser", "NRJS-", Set::Hex, 19, 19),
    run("grafana-service", "glsa_", Set::Word, 32, LONG),
    run("grafana-cloud", "glc_", Set::Base64, 32, LONG),
    run("grafana-key", "eyJrIjoi", Set::Base64, 60, LONG),
    run("honeycomb-ingest", "hcaik_", Set::Lower, 50, LONG),
    run("honeycomb-management", "hcamk_", Set::Lower, 50, LONG),
    regex("dynatrace", "dt0", r"^dt0[a-z][0-9]{2}\.(?i:[a-z0-9]{24}\.[a-z0-9]{64})"),
    run("elastic-user", "essu_", Set::Base64, 40, LONG),
    run("rootly", "rootly_", Set::Hex, 64, 64),
    run("axiom", "xaat-", Set::Hex, 36, 36),
    run("axiom-personal", "xapt-", Set::Hex, 36, 36),
    run("postman", "PMAK-", Set::Url, 50, LONG),
    run("postman-collection", "PMAT-", Set::Upper, 26, 26),
    run("launchdarkly-sdk", "sdk-", Set::Url, 36, 36),
    run("statsig", "secret-", Set::Alnum, 40, 50),
    run("posthog", "phx_", Set::Alnum, 43, 47),
    // Money.
    run("stripe-live", "sk_live_", Set::Alnum, 16, LONG),
    run("stripe-test", "sk_test_", Set::Alnum, 16, LONG),
    run("stripe-restricted", "rk_live_", Set::Alnum, 16, LONG),
    run("stripe-restricted-test", "rk_test_", Set::Alnum, 16, LONG),
    run("stripe-org", "sk_org_", Set::Word, 16, LONG),
    run("stripe-webhook", "whsec_", Set::Base64, 24, LONG),
    run("square-oauth", "sq0atp-", Set::Url, 22, LONG),
    run("square-secret", "sq0csp-", Set::Url, 43, LONG),
    mixed("square", "EAAA", Set::Url, 58, 62),
    regex("paypal", "access_token$", r"^access_token\$production\$[0-9a-z]{16}\$[0-9a-f]{32}"),
    Row { id: "plaid", anchor: "access-", shape: Shape::Regex("^access-(?:sandbox|development|production)-[0-9a-f-]{36}") },
    run("shopify-access", "shpat_", Set::AnyHex, 32, 32),
    run("shopify-custom", "shpca_", Set::AnyHex, 32, 32),
    run("shopify-private", "shppa_", Set::AnyHex, 32, 32),
    run("shopify-secret", "shpss_", Set::AnyHex, 32, 32),
    run("flutterwave", "FLWSECK-", Set::Url, 32, LONG),
    run("flutterwave-test", "FLWSECK_TEST-", Set::Url, 12, LONG),
    run("razorpay-live", "rzp_live_", Set::Alnum, 14, 20),
    run("razorpay-test", "rzp_test_", Set::Alnum, 14, 20),
    run("easypost", "EZAK", Set::Alnum, 54, 54),
    run("easypost-test", "EZTK", Set::Alnum, 54, 54),
    run("shippo-live", "shippo_live_", Set::AnyHex, 40, 40),
    run("shippo-test", "shippo_test_", Set::AnyHex, 40, 40),
    run("duffel-live", "duffel_live_", Set::Base64, 43, LONG),
    run("duffel-test", "duffel_test_", Set::Base64, 43, LONG),
    run("settlemint", "sm_aat_", Set::Alnum, 16, 16),
    run("settlemint-personal", "sm_pat_", Set::Alnum, 16, 16),
    run("adyen", "AQE", Set::Any, 80, LONG),
    run("wise", "sand_", Set::Url, 60, LONG),
    // Messages.
    run("slack-bot", "xoxb-", Set::Url, 10, LONG),
    run("slack-user", "xoxp-", Set::Url, 10, LONG),
    run("slack-workspace", "xoxa-", Set::Url, 10, LONG),
    run("slack-refresh", "xoxr-", Set::Url, 10, LONG),
    run("slack-session", "xoxs-", Set::Url, 10, LONG),
    run("slack-client", "xoxc-", Set::Url, 10, LONG),
    run("slack-cookie", "xoxd-", Set::Any, 10, LONG),
    run("slack-config", "xoxe", Set::Dots, 30, LONG),
    run("slack-app", "xapp-", Set::Url, 10, LONG),
    regex("slack-webhook", "hooks.slack.com/", r"^hooks\.slack\.com/(?:services|workflows|triggers)/([A-Za-z0-9+/_-]{20,})"),
    regex("discord-webhook", "/api/webhooks/", r"^/api/webhooks/([0-9]{15,22}/[A-Za-z0-9_-]{40,})"),
    regex("teams-webhook", "webhook.office.com/", r"^webhook\.office\.com/(webhookb2/[A-Za-z0-9@/_-]{40,})"),
    regex("teams-webhook-2017", "outlook.office.com/webhook/", r"^outlook\.office\.com/webhook/([A-Za-z0-9@/_-]{40,})"),
    regex("zapier-webhook", "hooks.zapier.com/", r"^hooks\.zapier\.com/hooks/catch/([A-Za-z0-9/]{8,})"),
    regex("sendgrid", "SG.", r"^SG\.[A-Za-z0-9=_.-]{50,}"),
    run("mailgun", "key-", Set::Hex, 32, 32),
    around("mailchimp", "-us", r"\b([0-9a-f]{32}-us[0-9]{1,2})\b"),
    run("sendinblue", "xkeysib-", Set::Url, 60, LONG),
    run("sendinblue-smtp", "xsmtpsib-", Set::Url, 60, LONG),
    run("mailersend", "mlsn.", Set::Hex, 64, 64),
    run("resend", "re_", Set::Word, 30, 40),
    run("twilio-key", "SK", Set::AnyHex, 32, 32),
    around("telegram-bot", ":AA", r"(?:^|[^0-9A-Za-z])(?:bot)?([0-9]{6,12}:AA[A-Za-z0-9_-]{32,35})"),
    regex("telegram-url", "/bot", r"^/bot([0-9]+:[A-Za-z0-9_-]{20,})"),
    run("telnyx", "KEY0", Set::Word, 40, LONG),
    run("line-channel", "LINE_", Set::Base64, 100, LONG),
    // Work.
    run("notion", "ntn_", Set::Alnum, 40, LONG),
    mixed("notion-old", "secret_", Set::Alnum, 43, 43),
    around("airtable", "pat", r"(?:^|[^A-Za-z0-9_])(pat[A-Za-z0-9]{14}\.[0-9a-f]{64})"),
    regex("asana", "1/1", r"^1/1[0-9]{15}:[0-9a-f]{32}"),
    run("linear", "lin_api_", Set::Alnum, 40, 48),
    run("linear-oauth", "lin_oauth_", Set::Hex, 64, 64),
    run("figma", "figd_", Set::Url, 40, LONG),
    run("figma-oauth", "figo_", Set::Url, 40, LONG),
    run("typeform", "tfp_", Set::Dots, 40, LONG),
    run("contentful", "CFPAT-", Set::Url, 43, 43),
    run("readme", "rdme_", Set::Lower, 70, 70),
    regex("frameio", "fio-u-", r"^fio-u-[A-Za-z0-9_=-]{64}"),
    run("dropbox", "sl.", Set::Dots, 100, LONG),
    run("hubspot-na", "pat-na", Set::Url, 36, 40),
    run("hubspot-eu", "pat-eu", Set::Url, 36, 40),
    run("intercom", "dG9rOj", Set::Base64, 40, LONG),
    run("adobe", "p8e-", Set::Lower, 32, 32),
    run("lob", "live_pub_", Set::Hex, 31, 31),
    run("cursor", "key_", Set::Hex, 64, 64),
    run("authress", "sc_", Set::Dots, 60, LONG),
    regex(
        "authress-service",
        "sc_",
        r"^sc_[A-Za-z0-9]{5,30}\.[A-Za-z0-9]{4,6}\.acc[_-][A-Za-z0-9-]{10,32}\.[A-Za-z0-9+/_=-]{30,120}",
    ),
    run("beamer", "b_", Set::Base64, 44, 44),
    run("intra42", "s-s4t2", Set::Url, 60, LONG),
    run("intra42-user", "u-s4t2", Set::Url, 60, LONG),
    around("maxmind", "_mmk", r"\b([A-Za-z0-9]{6}_[A-Za-z0-9]{29}_mmk)\b"),
    run("mapbox", "sk.eyJ", Set::Dots, 60, LONG),
    run("ubidots", "BBFF-", Set::Alnum, 30, 30),
    run("algolia-secured", "ALGOLIA_", Set::Alnum, 32, LONG),
    run("looker", "LOOKER_", Set::Alnum, 24, LONG),
    run("zuplo", "zpka_", Set::Word, 40, LONG),
    run("stytch", "secret-live-", Set::Base64, 36, LONG),
    run("checkly", "cu_", Set::Hex, 32, 32),
    // Social networks.
    around("facebook-app", "|", r"\b([0-9]{15,16}\|[A-Za-z0-9_-]{27})(?:[^A-Za-z0-9_-]|$)"),
    mixed("facebook", "EAACEdEose0cBA", Set::Alnum, 20, LONG),
    mixed("facebook-page", "EAAC", Set::Alnum, 80, LONG),
    mixed("instagram", "IGQ", Set::Url, 100, LONG),
    run("twitter-bearer", "AAAAAAAAAAAAAAAAAAAAA", Set::Any, 60, LONG),
    run("linkedin", "WPL_AP", Set::Dots, 20, LONG),
    // Models.
    run("anthropic", "sk-ant-", Set::Url, 20, LONG),
    run("openai-project", "sk-proj-", Set::Url, 20, LONG),
    run("openai-service", "sk-svcacct-", Set::Url, 20, LONG),
    run("openai-admin", "sk-admin-", Set::Url, 20, LONG),
    run("openrouter", "sk-or-", Set::Url, 40, LONG),
    regex("openai", "sk-", "^sk-[A-Za-z0-9_-]{20,}"),
    regex("huggingface-letters", "hf_", r"^hf_[A-Za-z]{34}\b"),
    run("huggingface", "hf_", Set::Alnum, 30, 40),
    run("huggingface-org", "api_org_", Set::Alnum, 30, 40),
    run("groq", "gsk_", Set::Alnum, 40, 60),
    run("xai", "xai-", Set::Alnum, 60, LONG),
    run("perplexity", "pplx-", Set::Alnum, 40, LONG),
    run("replicate", "r8_", Set::Alnum, 37, 37),
    run("elevenlabs", "sk_", Set::Hex, 48, 48),
    run("pinecone", "pcsk_", Set::Word, 40, LONG),
    run("cerebras", "csk-", Set::Lower, 40, LONG),
    run("fireworks", "fw_", Set::Alnum, 22, 32),
    run("together", "tgp_v1_", Set::Url, 40, LONG),
    run("langsmith", "lsv2_", Set::Word, 40, LONG),
    run("nvidia", "nvapi-", Set::Url, 50, LONG),
    run("tavily", "tvly-", Set::Url, 24, LONG),
    run("firecrawl", "fc-", Set::Hex, 32, 32),
    run("e2b", "e2b_", Set::Hex, 40, 40),
    run("jina", "jina_", Set::Url, 50, LONG),
    run("voyage", "pa-", Set::Url, 43, 43),
    // Encoded keys.
    run("pem-base64", "LS0tLS1CRUdJTi", Set::Base64, 24, LONG * 16),
];

fn is_in(set: Set, byte: u8) -> bool {
    match set {
        Set::Hex => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        Set::AnyHex => byte.is_ascii_hexdigit(),
        Set::Lower => matches!(byte, b'0'..=b'9' | b'a'..=b'z'),
        Set::Upper => matches!(byte, b'0'..=b'9' | b'A'..=b'Z'),
        Set::Alnum => byte.is_ascii_alphanumeric(),
        Set::Word => byte.is_ascii_alphanumeric() || byte == b'_',
        Set::Url => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'),
        Set::Dots => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'),
        Set::Base64 => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+' | b'/' | b'='),
        Set::Any => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'+' | b'/' | b'=' | b'~' | b'%'),
    }
}

/// Whether a secret that begins like this may begin here.
fn begins(bytes: &[u8], at: usize, anchor: &str) -> bool {
    let Some(before) = at.checked_sub(1).map(|at| bytes[at]) else { return true };
    let first = anchor.as_bytes()[0];
    if !first.is_ascii_alphanumeric() {
        return true;
    }
    !(before.is_ascii_alphanumeric() || before == b'_' || before == b'-' && anchor.len() < 4)
}

/// The secret at an anchor, if it is one. `at` is where the anchor begins.
pub(super) fn verify(text: &str, row: usize, at: usize) -> Option<(usize, usize)> {
    let Row { anchor, shape, .. } = &ROWS[row];
    let bytes = text.as_bytes();
    if !bytes[at..].starts_with(anchor.as_bytes()) {
        return None;
    }
    let from = at + anchor.len();
    match shape {
        Shape::Run(set, least, most) | Shape::Mixed(set, least, most) => {
            if !begins(bytes, at, anchor) {
                return None;
            }
            let length = bytes[from..].iter().take(most + 1).take_while(|byte| is_in(*set, **byte)).count();
            if length < *least || length > *most {
                return None;
            }
            let secret = &bytes[from..from + length];
            // Names of constants and slugs have no digit, or words between their signs.
            let needs_digit =
                matches!(shape, Shape::Mixed(..)) || matches!(anchor.len(), 0..=5) && !matches!(set, Set::Hex | Set::AnyHex);
            if needs_digit && !secret.iter().any(u8::is_ascii_digit) {
                return None;
            }
            // A sentence may end behind it.
            let dots = secret.iter().rev().take_while(|byte| **byte == b'.').count();
            let start = if anchor.ends_with('=') { from } else { at };
            Some((start, from + length - dots)).filter(|_| is_key(&text[at..from + length]))
        }
        Shape::Regex(_) => {
            let found = built(row)?.captures(text.get(at..)?)?;
            let part = found.get(1).or_else(|| found.get(0))?;
            if found.get(1).is_none() && !begins(bytes, at, anchor) {
                return None;
            }
            Some((at + part.start(), at + part.end())).filter(|(start, end)| is_key(&text[*start..*end]))
        }
        Shape::Around(_) => {
            // What may stand before the anchor is bounded, so that the cost stays linear.
            let mut start = at.saturating_sub(96);
            while !text.is_char_boundary(start) {
                start += 1;
            }
            let mut end = (from + 160).min(text.len());
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            let found = built(row)?.captures_iter(&text[start..end]).filter_map(|found| found.get(1));
            let mut found = found.map(|part| (start + part.start(), start + part.end()));
            found.find(|(first, end)| *first <= at && at < *end)
        }
    }
}

/// A row's regex, which is compiled when its anchor is first met.
fn built(row: usize) -> Option<&'static Regex> {
    static BUILT: OnceLock<Vec<OnceLock<Option<Regex>>>> = OnceLock::new();
    let all = BUILT.get_or_init(|| ROWS.iter().map(|_| OnceLock::new()).collect());
    let built = all[row].get_or_init(|| match ROWS[row].shape {
        Shape::Regex(text) | Shape::Around(text) => Regex::new(text).ok(),
        _ => None,
    });
    built.as_ref()
}

/// Words and slugs begin like keys, too.
fn is_key(text: &str) -> bool {
    let has = |test: fn(&u8) -> bool| text.bytes().any(|byte| test(&byte));
    if let Some(rest) = text.strip_prefix("sk-") {
        // A slug is words with hyphens between them.
        return has(u8::is_ascii_digit) && (has(u8::is_ascii_uppercase) || !rest.contains('-'));
    }
    true
}

/// Tokens that have no anchor but a dot in them: Discord bots, Kubernetes bootstrap tokens, old Vault tokens.
pub(super) fn dotted(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(discord, r"(?:^|[^A-Za-z0-9_.-])([MNO][A-Za-z0-9_-]{22,28}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,40})");
    pattern!(bootstrap, r"(?:^|[^A-Za-z0-9_./-])([a-z0-9]{6}\.[a-z0-9]{16})(?:$|[^A-Za-z0-9_./-])");
    pattern!(vault, r"(?:^|[^A-Za-z0-9_./-])([sbr]\.[A-Za-z0-9]{24,})(?:$|[^A-Za-z0-9_./-])");
    let mixed =
        |text: &str| text.bytes().any(|byte| byte.is_ascii_digit()) && text.bytes().any(|byte| byte.is_ascii_alphabetic());
    for shape in [discord(), bootstrap(), vault()].into_iter().flatten() {
        for part in shape.captures_iter(text).filter_map(|found| found.get(1)) {
            if part.as_str().split('.').skip(1).all(mixed) {
                add(part.start(), part.end());
            }
        }
    }
}

/// Keys that are only long and random: 86 characters of base64 and `==`, as Azure's storage has, unless a hash is announced; an Azure DevOps token.
pub(super) fn bare(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(storage, r"(?:^|[^A-Za-z0-9+/=-])([A-Za-z0-9+/]{86}==)");
    for part in storage().into_iter().flat_map(|shape| shape.captures_iter(text)).filter_map(|found| found.get(1)) {
        add(part.start(), part.end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_regex_compiles() {
        for (row, Row { id, shape, .. }) in ROWS.iter().enumerate() {
            assert!(matches!(shape, Shape::Run(..) | Shape::Mixed(..)) || built(row).is_some(), "{id}");
        }
    }
}
