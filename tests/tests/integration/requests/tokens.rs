//! An issuer of tokens, with keys of its own making.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};

/// Whose tokens they are.
pub(super) const ISSUER: &str = "https://issuer.example";

/// A key of the issuer.
pub(super) struct Key {
    name: String,
    algorithm: Algorithm,
    private: EncodingKey,
    /// As it is published.
    pub(super) jwk: Value,
    /// What everybody knows of it, in the forms in which it could be taken for a secret.
    pub(super) public: Vec<Vec<u8>>,
}

/// base64url without padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for piece in bytes.chunks(3) {
        let bits =
            piece.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - piece.len()));
        for at in 0..=piece.len() {
            text.push(char::from(LETTERS[(bits >> (18 - 6 * at)) as usize & 63]));
        }
    }
    text
}

/// A public key of PKCS #1 as a file of text.
fn pem(der: &[u8]) -> String {
    let mut body = base64(der).replace('-', "+").replace('_', "/");
    while !body.len().is_multiple_of(4) {
        body.push('=');
    }
    let lines: Vec<&str> = (0..body.len())
        .step_by(64)
        .map(|at| &body[at..body.len().min(at + 64)])
        .collect();
    format!(
        "-----BEGIN RSA PUBLIC KEY-----\n{}\n-----END RSA PUBLIC KEY-----\n",
        lines.join("\n")
    )
}

/// A key set.
pub(super) fn key_set(keys: &[&Key]) -> String {
    let keys: Vec<&Value> = keys.iter().map(|key| &key.jwk).collect();
    json!({ "keys": keys }).to_string()
}

/// Good claims for the next hour, with these changes.
pub(super) fn claims(changes: &Value) -> Value {
    let mut claims = json!({"iss": ISSUER, "sub": "amy", "aud": ["shop"], "azp": "app", "group": ["staff", "buyers"],
        "realm": {"level": 3}, "exp": seconds(3600)});
    for (name, value) in changes.as_object().into_iter().flatten() {
        claims[name] = value.clone();
    }
    claims
}

/// So many seconds from now.
pub(super) fn seconds(from_now: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap() + from_now
}

impl Key {
    pub(super) fn ec(name: &str) -> Self {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let point = pair.public_key_raw();
        Self {
            name: name.to_owned(),
            algorithm: Algorithm::ES256,
            private: EncodingKey::from_ec_der(&pair.serialize_der()),
            jwk: json!({"kty": "EC", "crv": "P-256", "kid": name, "use": "sig",
                "x": base64(&point[1..33]), "y": base64(&point[33..])}),
            public: vec![point.to_vec()],
        }
    }

    pub(super) fn rsa(name: &str) -> Self {
        let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        // PKCS #1: a sequence of modulus and exponent.
        let public = pair.public_key_raw().to_vec();
        let modulus = &public[public.len() - 5 - 256..public.len() - 5];
        // PKCS #8: a head of 22 bytes, then an octet string with two bytes of length.
        let pkcs8 = pair.serialize_der();
        assert_eq!(
            pkcs8[22..24],
            [0x04, 0x82],
            "another head than that of a key of 2048 bits"
        );
        let jwk = json!({"kty": "RSA", "kid": name, "n": base64(modulus), "e": "AQAB"});
        Self {
            name: name.to_owned(),
            algorithm: Algorithm::RS256,
            private: EncodingKey::from_rsa_der(&pkcs8[26..]),
            public: vec![
                public.clone(),
                pem(&public).into_bytes(),
                base64(modulus).into_bytes(),
                jwk.to_string().into_bytes(),
            ],
            jwk,
        }
    }

    /// A token.
    pub(super) fn sign(&self, claims: &Value) -> String {
        self.sign_as(&self.name, claims)
    }

    /// A token that names another key.
    pub(super) fn sign_as(&self, name: &str, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(name.to_owned());
        encode(&header, claims, &self.private).unwrap()
    }

    /// A token "signed" with what everybody knows.
    pub(super) fn confuse(&self, secret: &[u8], claims: &Value) -> String {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(self.name.clone());
        encode(&header, claims, &EncodingKey::from_secret(secret)).unwrap()
    }

    /// A token that nobody signed.
    pub(super) fn unsigned(&self, algorithm: &str, claims: &Value) -> String {
        let header = json!({"alg": algorithm, "kid": self.name, "typ": "JWT"});
        let piece = |value: &Value| base64(value.to_string().as_bytes());
        format!("{}.{}.", piece(&header), piece(claims))
    }
}
