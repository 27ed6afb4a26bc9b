//! Issuers of tokens for tests.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use serde_json::{Value, json};
use x509_parser::asn1_rs::FromDer;

/// A key pair of an issuer.
pub(crate) struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
    pub(crate) jwk: Value,
}

/// base64url without padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
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

impl Signer {
    pub(crate) fn ec(id: &str) -> Self {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let point = pair.public_key_raw();
        Self {
            algorithm: Algorithm::ES256,
            key: EncodingKey::from_ec_der(&pair.serialize_der()),
            jwk: json!({"kty": "EC", "crv": "P-256", "kid": id, "use": "sig",
                "x": base64(&point[1..33]), "y": base64(&point[33..])}),
        }
    }

    pub(crate) fn ed(id: &str) -> Self {
        let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        Self {
            algorithm: Algorithm::EdDSA,
            key: EncodingKey::from_ed_der(&pair.serialize_der()),
            jwk: json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": base64(pair.public_key_raw())}),
        }
    }

    pub(crate) fn rsa(id: &str) -> Self {
        let pair = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        // PKCS #1: a sequence of modulus and exponent.
        let der = pair.public_key_raw();
        let modulus = &der[der.len() - 5 - 256..der.len() - 5];
        let pkcs8 = pair.serialize_der();
        let key = x509_parser::asn1_rs::Sequence::from_der(&pkcs8).unwrap().1;
        let (rest, _) = x509_parser::asn1_rs::Any::from_der(&key.content).unwrap();
        let (rest, _) = x509_parser::asn1_rs::Any::from_der(rest).unwrap();
        let (_, octets) = x509_parser::asn1_rs::Any::from_der(rest).unwrap();
        Self {
            algorithm: Algorithm::RS256,
            key: EncodingKey::from_rsa_der(octets.data),
            jwk: json!({"kty": "RSA", "kid": id, "alg": "RS256", "n": base64(modulus), "e": "AQAB"}),
        }
    }

    pub(crate) fn sign_as(&self, header: Header, claims: &Value) -> String {
        encode(&header, claims, &self.key).unwrap()
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = self.jwk["kid"].as_str().map(str::to_owned);
        self.sign_as(header, claims)
    }
}
