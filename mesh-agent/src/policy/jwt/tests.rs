//! Tokens good and bad, where they stand, and what the application is told of them.

use std::time::{Duration, UNIX_EPOCH};

use http::Request;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use mesh_common::model::{ClaimHeader, ObjectKey, OriginalToken, Target, TokenPlace};
use serde_json::{Value, json};

use super::signer::{Signer, base64};
use super::*;
use crate::policy::{Governing, Modes};

/// A moment in the middle of a token's life.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000)
}

fn claims() -> Value {
    json!({"iss": "https://issuer", "sub": "me", "aud": ["shop"], "exp": 1_000_100, "nbf": 999_900, "role": "admin",
        "realm": {"level": 3}})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn rule(keys: &[&Signer]) -> JwtRule {
    let keys: Vec<_> = keys.iter().map(|signer| &signer.jwk).collect();
    JwtRule {
        issuer: "https://issuer".to_owned(),
        audiences: vec!["shop".to_owned(), "bank".to_owned()],
        keys: JwtKeys::Inline(json!({ "keys": keys }).to_string()),
        places: vec![
            TokenPlace::Header("authorization".to_owned(), "Bearer ".to_owned()),
            TokenPlace::Parameter("access_token".to_owned()),
        ],
        payload_header: None,
        claim_headers: Vec::new(),
        original: OriginalToken::Removed,
        timeout: Duration::from_secs(5),
    }
}

fn workload(rules: Vec<JwtRule>, cell: Option<Arc<KeyCell>>) -> WorkloadPolicy {
    let policy = RequestAuthentication {
        key: ObjectKey::new("shop", "tokens"),
        target: Target::All,
        rules,
    };
    let compiled = CompiledAuthentication::new(Arc::new(policy), |_, _| Arc::clone(cell.as_ref().unwrap()));
    let own = crate::samples::workload("shop", "web");
    let governing = Governing {
        root_namespace: "root",
        workload: &own,
        serves: &|_| false,
    };
    WorkloadPolicy::new(Modes::new(&governing, []), [], Vec::new())
        .with_authentications(vec![Arc::new(compiled)])
}

fn request(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn bearer(token: &str) -> Parts {
    request("/", &[("authorization", &format!("Bearer {token}"))])
}

/// What becomes of a request: its principal, or what is wrong with it.
fn outcome_at(policy: &WorkloadPolicy, request: &Parts, now: SystemTime) -> String {
    match authenticate(policy, request, &TokenCache::new(), now) {
        Ok(Some(proved)) => proved.verified.token.principal().unwrap_or(["?"; 3]).concat(),
        Ok(None) => "no token".to_owned(),
        Err(unproved) => unproved.to_string(),
    }
}

fn outcome(policy: &WorkloadPolicy, request: &Parts) -> String {
    outcome_at(policy, request, now())
}

const ME: &str = "https://issuer/me";

#[test]
fn every_kind_of_key() {
    for signer in [Signer::ec("a"), Signer::ed("a"), Signer::rsa("a")] {
        let policy = workload(vec![rule(&[&signer])], None);
        let token = signer.sign(&claims());
        assert_eq!(outcome(&policy, &bearer(&token)), ME, "{}", signer.jwk);
        assert_eq!(outcome(&policy, &request("/", &[])), "no token");
        let (message, signature) = token.rsplit_once('.').unwrap();
        let mut wrong = signature.as_bytes().to_vec();
        wrong[5] = if wrong[5] == b'A' { b'B' } else { b'A' };
        let wrong = format!("{message}.{}", String::from_utf8(wrong).unwrap());
        assert_eq!(
            outcome(&policy, &bearer(&wrong)),
            "the token's signature is wrong"
        );
    }
}

#[test]
fn times_with_their_leeway() {
    let signer = Signer::ec("a");
    let policy = workload(vec![rule(&[&signer])], None);
    let expired = "the token has expired";
    let early = "the token is not valid yet";
    let odd = "the token's times are not numbers";
    for (name, value, expected) in [
        ("exp", json!(1_000_000), ME),
        ("exp", json!(999_941), ME),
        ("exp", json!(999_940), expired),
        ("exp", json!(999_940.5), ME),
        ("exp", json!(0), expired),
        ("exp", json!(-5), expired),
        ("exp", json!("1000100"), odd),
        ("exp", json!(null), odd),
        ("exp", json!(1e300), odd),
        ("nbf", json!(1_000_060), ME),
        ("nbf", json!(1_000_061), early),
        ("nbf", json!([]), odd),
    ] {
        let token = signer.sign(&with(name, value.clone()));
        assert_eq!(outcome(&policy, &bearer(&token)), expected, "{name} {value}");
    }
    let mut endless = claims();
    endless.as_object_mut().unwrap().remove("exp");
    assert_eq!(
        outcome(&policy, &bearer(&signer.sign(&endless))),
        ME,
        "a token need not expire"
    );
}

#[test]
fn issuer_and_audience_are_exact() {
    let signer = Signer::ec("a");
    let policy = workload(vec![rule(&[&signer])], None);
    let issuer = "the token's issuer is none of those that are taken here";
    let audience = "the token is not meant for this audience";
    for (name, value, expected) in [
        ("iss", json!("https://issuer/"), issuer),
        ("iss", json!("HTTPS://issuer"), issuer),
        ("iss", json!(["https://issuer"]), issuer),
        ("iss", json!(null), issuer),
        ("aud", json!("bank"), ME),
        ("aud", json!(["x", "shop"]), ME),
        ("aud", json!("shop2"), audience),
        ("aud", json!(["sho"]), audience),
        ("aud", json!([]), audience),
        ("aud", json!(null), audience),
    ] {
        let token = signer.sign(&with(name, value.clone()));
        assert_eq!(outcome(&policy, &bearer(&token)), expected, "{name} {value}");
    }
    let mut anybody = rule(&[&signer]);
    anybody.audiences.clear();
    let policy = workload(vec![anybody], None);
    assert_eq!(
        outcome(&policy, &bearer(&signer.sign(&with("aud", json!("x"))))),
        ME
    );
}

#[test]
fn the_key_decides_on_the_algorithm() {
    let rsa = Signer::rsa("a");
    let policy = workload(vec![rule(&[&rsa])], None);
    let algorithm = "the token's algorithm is not one for public keys";
    // No signature at all.
    let payload = base64(claims().to_string().as_bytes());
    for name in ["none", "None", "NONE", "nOnE"] {
        let header = base64(json!({"alg": name, "kid": "a"}).to_string().as_bytes());
        assert_eq!(
            outcome(&policy, &bearer(&format!("{header}.{payload}."))),
            algorithm,
            "{name}"
        );
    }
    // The public key as the secret of an HMAC, in whatever form it is known.
    let modulus = rsa.jwk["n"].as_str().unwrap();
    for secret in [modulus.as_bytes(), rsa.jwk.to_string().as_bytes(), b"AQAB"] {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("a".to_owned());
        let token = encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap();
        assert_eq!(outcome(&policy, &bearer(&token)), algorithm);
    }
    // Another algorithm of the same key, which the set does not give it.
    let mut header = Header::new(Algorithm::RS512);
    header.kid = Some("a".to_owned());
    let token = rsa.sign_as(header, &claims());
    assert_eq!(
        outcome(&policy, &bearer(&token)),
        "the token's key is not one of its issuer"
    );
    // A key of another kind under the same name.
    let token = Signer::ec("a").sign(&claims());
    assert_eq!(
        outcome(&policy, &bearer(&token)),
        "the token's key is not one of its issuer"
    );
    // A key that the token brings along.
    let other = Signer::ec("a");
    let policy = workload(vec![rule(&[&Signer::ec("a")])], None);
    let mut header = Header::new(Algorithm::ES256);
    header.jwk = serde_json::from_value(other.jwk.clone()).ok();
    assert!(header.jwk.is_some());
    let token = other.sign_as(header, &claims());
    assert_eq!(
        outcome(&policy, &bearer(&token)),
        "the token's signature is wrong"
    );
}

#[test]
fn keys_by_name() {
    let (a, b) = (Signer::ec("a"), Signer::ec("b"));
    let policy = workload(vec![rule(&[&a, &b])], None);
    assert_eq!(outcome(&policy, &bearer(&b.sign(&claims()))), ME);
    let unnamed = b.sign_as(Header::new(Algorithm::ES256), &claims());
    assert_eq!(outcome(&policy, &bearer(&unnamed)), ME, "each key is tried");
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("a".to_owned());
    let wrong_name = b.sign_as(header.clone(), &claims());
    assert_eq!(
        outcome(&policy, &bearer(&wrong_name)),
        "the token's signature is wrong"
    );
    header.kid = Some("c".to_owned());
    let unknown = b.sign_as(header.clone(), &claims());
    assert_eq!(
        outcome(&policy, &bearer(&unknown)),
        "the token's key is not one of its issuer"
    );
    header.kid = Some("a".to_owned());
    header.crit = Some(vec!["b64".to_owned()]);
    let critical = a.sign_as(header, &claims());
    assert_eq!(
        outcome(&policy, &bearer(&critical)),
        "the token has critical header fields, of which none is known here"
    );
}

#[test]
fn garbage() {
    let signer = Signer::ec("a");
    let policy = workload(vec![rule(&[&signer])], None);
    let malformed = "the token is not a JSON Web Token";
    let good = signer.sign(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    for token in [
        "",
        "x",
        "..",
        "a.b.c",
        "a.b.c.d",
        &format!("{good}.x"),
        &format!("{}.{}", parts[0], parts[1]),
        &format!("{}.!!!.{}", parts[0], parts[2]),
        &format!("{}.{}.{}", parts[0], base64(b"[1]"), parts[2]),
        &format!("{}.{}.{}", parts[0], base64(&vec![b'['; 9000]), parts[2]),
    ] {
        assert_eq!(outcome(&policy, &bearer(token)), malformed, "{token}");
    }
    let binary = {
        let mut parts = request("/", &[]);
        let value = http::HeaderValue::from_bytes(b"Bearer \xff\xfe").unwrap();
        parts.headers.insert("authorization", value);
        parts
    };
    assert_eq!(outcome(&policy, &binary), malformed);
    let long = signer.sign(&with("more", json!("x".repeat(16 * 1024))));
    assert_eq!(
        outcome(&policy, &bearer(&long)),
        "the token is longer than 16384 bytes"
    );
    let replaced = format!(
        "{}.{}.{}",
        parts[0],
        base64(with("sub", json!("root")).to_string().as_bytes()),
        parts[2]
    );
    assert_eq!(
        outcome(&policy, &bearer(&replaced)),
        "the token's signature is wrong"
    );
}

#[test]
fn places() {
    let signer = Signer::ec("a");
    let token = &signer.sign(&claims());
    let policy = workload(vec![rule(&[&signer])], None);
    let several = "the request has several different tokens";
    let other = &signer.sign(&with("sub", json!("other")));
    let bearing = &format!("Bearer {token}");
    for (parts, expected) in [
        (request("/", &[("authorization", &format!("bEARER {token}"))]), ME),
        (request(&format!("/?a=b&access_token={token}"), &[]), ME),
        (
            request(&format!("/?access_token={token}"), &[("authorization", bearing)]),
            ME,
        ),
        (
            request("/", &[("authorization", bearing), ("authorization", bearing)]),
            ME,
        ),
        (
            request("/", &[("authorization", &format!("Bearer\t{token}"))]),
            ME,
        ),
        (
            request("/", &[("authorization", &format!(" Bearer \t {token}"))]),
            ME,
        ),
        (request(&format!("/?%61ccess_tok%65n={token}"), &[]), ME),
        (request(&format!("/?access%5ftoken={token}"), &[]), ME),
        (
            request(&format!("/?access_token={token}&%61ccess_token={other}"), &[]),
            several,
        ),
        (request(&format!("/?access%token={token}"), &[]), "no token"),
        (
            request("/", &[("authorization", &format!("Bearers {token}"))]),
            "no token",
        ),
        (request("/", &[("authorization", "Bearer")]), "no token"),
        (request("/", &[("authorization", "Basic eDp5")]), "no token"),
        (request("/", &[("authorization", token)]), "no token"),
        (request("/", &[("x-token", token)]), "no token"),
        (request(&format!("/?token={token}"), &[]), "no token"),
        (
            request(&format!("/?access_token={other}"), &[("authorization", bearing)]),
            several,
        ),
        (
            request(
                "/",
                &[
                    ("authorization", bearing),
                    ("authorization", &format!("Bearer {other}")),
                ],
            ),
            several,
        ),
    ] {
        assert_eq!(outcome(&policy, &parts), expected, "{parts:?}");
    }
    let mut custom = rule(&[&signer]);
    custom.places = vec![
        TokenPlace::Header("x-token".to_owned(), String::new()),
        TokenPlace::Cookie("session".to_owned()),
    ];
    let policy = workload(vec![custom], None);
    for (parts, expected) in [
        (request("/", &[("x-token", token)]), ME),
        (
            request("/", &[("cookie", &format!("a=b; session={token}; c=d"))]),
            ME,
        ),
        (request("/", &[("cookie", "a=b")]), "no token"),
        (bearer(token), "no token"),
    ] {
        assert_eq!(outcome(&policy, &parts), expected, "{parts:?}");
    }
}

#[test]
fn several_issuers_by_their_names() {
    let (a, b) = (Signer::ec("a"), Signer::ed("b"));
    let mut second = rule(&[&b]);
    second.issuer = "other".to_owned();
    let policy = workload(vec![rule(&[&a]), second], None);
    assert_eq!(outcome(&policy, &bearer(&a.sign(&claims()))), ME);
    assert_eq!(
        outcome(&policy, &bearer(&b.sign(&with("iss", json!("other"))))),
        "other/me"
    );
    assert_eq!(
        outcome(&policy, &bearer(&b.sign(&claims()))),
        "the token's key is not one of its issuer",
        "an issuer cannot speak for another"
    );
}

#[test]
fn what_the_application_gets() {
    let signer = Signer::ec("a");
    let mut rule = rule(&[&signer]);
    rule.payload_header = Some("x-payload".to_owned());
    let claim = |header: &str, claim: &[&str]| ClaimHeader {
        header: header.to_owned(),
        claim: claim.iter().map(|step| (*step).to_owned()).collect(),
    };
    rule.claim_headers = vec![
        claim("x-role", &["role"]),
        claim("x-level", &["realm", "level"]),
        claim("x-none", &["none"]),
    ];
    rule.places.push(TokenPlace::Cookie("session".to_owned()));
    let token = &signer.sign(&claims());
    let forged = [
        ("x-role", "root"),
        ("x_role", "root"),
        ("x-none", "root"),
        ("x-payload", "forged"),
        ("x-other", "kept"),
    ];
    let shown = |policy: &WorkloadPolicy, mut parts: Parts| {
        let proved = authenticate(policy, &parts, &TokenCache::new(), now()).unwrap();
        if let Some(proved) = &proved {
            proved.remove_token(&mut parts);
        }
        policy.write_headers(proved.as_ref(), &mut parts.headers);
        let mut headers: Vec<_> = parts
            .headers
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
            .collect();
        headers.sort();
        (parts.uri.to_string(), headers.join(" "))
    };
    let policy = workload(vec![rule.clone()], None);
    let payload = token.split('.').nth(1).unwrap();
    let told = format!("x-level=3 x-other=kept x-payload={payload} x-role=admin");
    let mut headers = forged.to_vec();
    assert_eq!(
        shown(&policy, request("/a?b=c", &headers)),
        ("/a?b=c".to_owned(), "x-other=kept".to_owned()),
        "without a token nobody can pretend"
    );
    let cookies = format!("a=b; session={token}");
    headers.push(("cookie", &cookies));
    assert_eq!(
        shown(
            &policy,
            request(&format!("/a?access_token={token}&b=c"), &headers)
        ),
        ("/a?b=c".to_owned(), format!("cookie=a=b {told}")),
    );
    rule.original = OriginalToken::Forwarded;
    let bearing = format!("Bearer {token}");
    headers.retain(|(name, _)| *name != "cookie");
    headers.push(("authorization", &bearing));
    let policy = workload(vec![rule], None);
    assert_eq!(
        shown(&policy, request(&format!("/?access_token={token}"), &headers)),
        (
            format!("/?access_token={token}"),
            format!("authorization={bearing} {told}")
        ),
    );
}

/// Keys that are fetched: none, then some, then others.
#[test]
fn rotated_keys() {
    let (a, b) = (Signer::ec("a"), Signer::ec("b"));
    let cell = Arc::new(KeyCell::fetched("http://issuer/keys", Duration::from_secs(5)));
    let mut rule = rule(&[]);
    rule.keys = JwtKeys::Url("http://issuer/keys".to_owned());
    let policy = workload(vec![rule], Some(Arc::clone(&cell)));
    let (by_a, by_b) = (bearer(&a.sign(&claims())), bearer(&b.sign(&claims())));
    let set = |signers: &[&Signer]| {
        let keys: Vec<_> = signers.iter().map(|signer| &signer.jwk).collect();
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).map_err(|error| error.to_string())
    };
    let cache = TokenCache::new();
    let outcome = |parts: &Parts| match authenticate(&policy, parts, &cache, now()) {
        Ok(proved) => proved.unwrap().verified.token.principal().unwrap().concat(),
        Err(error) => error.to_string(),
    };
    let unknown = "the token's key is not one of its issuer";
    assert_eq!(
        outcome(&by_a),
        "the keys of issuer https://issuer are not known: not fetched yet"
    );
    cell.end(Err("no route".to_owned()));
    assert_eq!(
        outcome(&by_a),
        "the keys of issuer https://issuer are not known: no route"
    );
    assert_eq!(
        outcome(&request("/", &[("authorization", "Bearer x")])),
        "the token is not a JSON Web Token"
    );
    cell.end(set(&[&a]));
    assert_eq!((outcome(&by_a).as_str(), outcome(&by_b).as_str()), (ME, unknown));
    cell.end(Err("no route".to_owned()));
    assert_eq!(outcome(&by_a), ME, "what was fetched once stays");
    cell.end(set(&[&b]));
    assert_eq!(
        (outcome(&by_a).as_str(), outcome(&by_b).as_str()),
        (unknown, ME),
        "not even from the cache"
    );
}

#[test]
fn the_cache_knows_its_rule_its_time_and_its_bounds() {
    let signer = Signer::ec("a");
    let policy = workload(vec![rule(&[&signer])], None);
    let cache = TokenCache::with_capacity(4000);
    let token = bearer(&signer.sign(&claims()));
    let prove = |policy: &WorkloadPolicy, now| authenticate(policy, &token, &cache, now);
    let first = prove(&policy, now()).unwrap().unwrap();
    let again = prove(&policy, now()).unwrap().unwrap();
    assert!(Arc::ptr_eq(&first.verified, &again.verified), "verified once");
    let later = now() + Duration::from_secs(160);
    assert_eq!(
        prove(&policy, later).unwrap_err().to_string(),
        "the token has expired"
    );
    let mut stricter = rule(&[&signer]);
    stricter.audiences = vec!["bank".to_owned()];
    let stricter = workload(vec![stricter], None);
    assert_eq!(
        prove(&stricter, now()).unwrap_err().to_string(),
        "the token is not meant for this audience"
    );
    for number in 0..100 {
        let other = bearer(&signer.sign(&with("sub", json!(number.to_string()))));
        authenticate(&policy, &other, &cache, now()).unwrap().unwrap();
        // What is used stays.
        let kept = prove(&policy, now()).unwrap().unwrap();
        assert!(Arc::ptr_eq(&first.verified, &kept.verified), "{number}");
        assert!(cache.len() <= 2 * 4000 / 300, "{}", cache.len());
    }
}

#[test]
fn key_sets() {
    let ec = Signer::ec("a").jwk;
    let with = |name: &str, value: &str| {
        let mut jwk = ec.clone();
        jwk[name] = json!(value);
        jwk
    };
    let secret = json!({"kty": "oct", "k": "c2VjcmV0", "kid": "a"});
    for keys in [
        json!([]),
        json!([secret]),
        json!([with("use", "enc")]),
        json!([with("crv", "P-521")]),
        json!([1]),
    ] {
        let parsed = KeySet::parse(json!({ "keys": keys }).to_string().as_bytes());
        assert_eq!(parsed.map(drop), Err(KeySetError::NoKey), "{keys}");
    }
    for text in ["", "{}", "[]", "{\"keys\": 1}", "<html>"] {
        assert!(
            matches!(KeySet::parse(text.as_bytes()), Err(KeySetError::Form(_))),
            "{text}"
        );
    }
    let mixed = json!({"keys": [secret, with("kty", "new"), with("alg", "ES999"), ec]});
    assert!(
        KeySet::parse(mixed.to_string().as_bytes()).is_ok(),
        "those that are known are taken"
    );
    let set = KeySet::parse(json!({"keys": vec![ec; 1000]}).to_string().as_bytes()).unwrap();
    assert_eq!(set.fitting(Algorithm::ES256, None).count(), 64);
}
