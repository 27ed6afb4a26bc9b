//! RequestAuthentication: what it becomes, and the exact words for what is wrong with it.

use super::*;

fn request_authentication(text: &str) -> RequestAuthentication {
    match load(text) {
        Ok(Change::PutRequestAuthentication(policy)) => Arc::unwrap_or_clone(policy),
        other => panic!("{other:?}"),
    }
}

fn with_jwt_rule(rule: &str) -> String {
    object("RequestAuthentication", &format!("jwtRules: [{{{rule}}}]"))
}

#[test]
fn a_full_request_authentication() {
    let keys = r#"{"keys": [{"kty": "RSA"}]}"#;
    let policy = request_authentication(&object(
        "RequestAuthentication",
        &format!(
            "selector: {{matchLabels: {{app: web}}}}, jwtRules: [\
             {{issuer: a, audiences: [x, y], jwksUri: 'https://a.example/keys', fromHeaders: [{{name: X-Token}}, \
             {{name: Authorization, prefix: 'JWT '}}], fromParams: [token], fromCookies: [session], \
             outputPayloadToHeader: X-Payload, outputClaimToHeaders: [{{header: X-Sub, claim: sub}}, \
             {{header: X-Role, claim: realm.role}}], forwardOriginalToken: true, timeout: 2s}}, \
             {{issuer: b, jwks: '{keys}'}}]"
        ),
    ));
    let header = |name: &str, prefix: &str| TokenPlace::Header(name.to_owned(), prefix.to_owned());
    let claim = |header: &str, claim: &[&str]| ClaimHeader {
        header: header.to_owned(),
        claim: claim.iter().map(|step| (*step).to_owned()).collect(),
    };
    assert_eq!(
        policy,
        RequestAuthentication {
            key: ObjectKey::new("shop", "p"),
            target: Target::Labels(labels(&[("app", "web")])),
            rules: vec![
                JwtRule {
                    issuer: "a".to_owned(),
                    audiences: vec!["x".to_owned(), "y".to_owned()],
                    keys: JwtKeys::Url("https://a.example/keys".to_owned()),
                    places: vec![
                        header("x-token", ""),
                        header("authorization", "JWT "),
                        TokenPlace::Parameter("token".to_owned()),
                        TokenPlace::Cookie("session".to_owned()),
                    ],
                    payload_header: Some("x-payload".to_owned()),
                    claim_headers: vec![claim("x-sub", &["sub"]), claim("x-role", &["realm", "role"])],
                    original: OriginalToken::Forwarded,
                    timeout: Duration::from_secs(2),
                },
                JwtRule {
                    issuer: "b".to_owned(),
                    audiences: Vec::new(),
                    keys: JwtKeys::Inline(keys.to_owned()),
                    places: vec![
                        header("authorization", "Bearer "),
                        TokenPlace::Parameter("access_token".to_owned()),
                    ],
                    payload_header: None,
                    claim_headers: Vec::new(),
                    original: OriginalToken::Removed,
                    timeout: Duration::from_secs(5),
                },
            ],
        }
    );
}

#[test]
fn faults_of_a_request_authentication() {
    let url = "jwksUri: 'http://a/'";
    for (rule, fault) in [
        ("issuer: a", "spec.jwtRules[0]: the rule has no keys"),
        (url, "spec.jwtRules[0].issuer: missing"),
        (&format!("issuer: '', {url}"), "spec.jwtRules[0].issuer: empty"),
        (
            &format!("issuer: a, {url}, jwks: '{{}}'"),
            "jwks and jwksUri stand side by side",
        ),
        ("issuer: a, jwks: '{'", "spec.jwtRules[0].jwks: not JSON"),
        (
            "issuer: a, jwks: '{}'",
            "spec.jwtRules[0].jwks: has no list of keys",
        ),
        (
            "issuer: a, jwks: '{\"keys\": [{\"kty\": \"oct\"}]}'",
            "spec.jwtRules[0].jwks: has no public key",
        ),
        (
            "issuer: a, jwksUri: 'ftp://a/'",
            "is not a URL that keys can be fetched from",
        ),
        (
            "issuer: a, jwksUri: /keys",
            "is not a URL that keys can be fetched from",
        ),
        (
            "issuer: a, jwksUri: 'http://user@a/'",
            "is not a URL that keys can be fetched from",
        ),
        (
            &format!("issuer: a, {url}, fromHeaders: [{{name: 'a b'}}]"),
            "is not the name of a header",
        ),
        (
            &format!("issuer: a, {url}, fromParams: ['a&b']"),
            "'&' cannot stand in this name",
        ),
        (
            &format!("issuer: a, {url}, fromCookies: ['']"),
            "spec.jwtRules[0].fromCookies[0]: empty",
        ),
        (
            &format!("issuer: a, {url}, outputPayloadToHeader: Host"),
            "host says how a request is carried",
        ),
        (
            &format!("issuer: a, {url}, outputClaimToHeaders: [{{header: x, claim: a..b}}]"),
            "\"a..b\" is not a claim",
        ),
        (
            &format!("issuer: a, {url}, timeout: 0s"),
            "is not a time between 0 and 60 s",
        ),
        (
            &format!("issuer: a, {url}, timeout: 2h"),
            "is not a time between 0 and 60 s",
        ),
        (
            &format!("issuer: a, {url}, spaceDelimitedClaims: [a]"),
            "unknown field",
        ),
    ] {
        let faults = load(&with_jwt_rule(rule)).unwrap_err().join("\n");
        assert!(faults.contains(fault), "{rule}: {faults}");
    }
}
