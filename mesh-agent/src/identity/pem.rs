//! PEM, the textual form of keys and certificates in files (RFC 7468).
//!
//! Reading is rustls-pki-types'; writing is here, because it must not leave copies of a key behind.

use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

/// The label of a PKCS #8 key.
pub(super) const PRIVATE_KEY: &str = "PRIVATE KEY";
/// The label of a certificate.
const CERTIFICATE: &str = "CERTIFICATE";
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const LINE: usize = 64;

/// Certificates as text, one after the other.
pub fn certificates<'a>(chain: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> String {
    chain.into_iter().map(|der| encode(CERTIFICATE, der)).collect()
}

/// A signing request as text.
#[cfg(test)]
pub(crate) fn request(csr: &[u8]) -> String {
    encode("CERTIFICATE REQUEST", csr)
}

/// One block. It is allocated at its full size at once, so that growing leaves no copy.
pub(super) fn encode(label: &str, der: &[u8]) -> String {
    let coded = der.len().div_ceil(3) * 4;
    let mut body = Zeroizing::new(String::with_capacity(coded));
    for group in der.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place)) & 63;
            let letter = ALPHABET.get(index as usize).copied().unwrap_or(b'=');
            body.push(if place <= group.len() {
                char::from(letter)
            } else {
                '='
            });
        }
    }
    let frame = 2 * (label.len() + "-----BEGIN -----\n".len()) - "BEGIN".len() + "END".len();
    let mut text = String::with_capacity(coded + coded.div_ceil(LINE) + frame);
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest: &str = &body;
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::pem::PemObject as _;

    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        for length in [0, 1, 2, 3, 47, 48, 49, 200] {
            let bytes: Vec<u8> = (0..length).map(|byte| (byte * 7 + 250) as u8).collect();
            let text = encode(CERTIFICATE, &bytes);
            assert!(text.lines().all(|line| line.len() <= LINE), "{text}");
            assert_eq!(text.capacity(), text.len(), "allocated once");
            let read = CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
            assert_eq!(&*read, &*bytes);
        }
    }
}
