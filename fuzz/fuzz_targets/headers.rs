//! Hop-by-hop headers: what concerns the connection is gone, what frames and routes is not, and once is as good as twice.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use mesh_fuzz::h1::{Switch, hop_by_hop};

fuzz_target!(|bytes: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(64) {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let before = headers.clone();
    for switch in [Switch::Stay, Switch::Upgrade(HeaderValue::from_static("x"))] {
        let mut once = before.clone();
        hop_by_hop::strip(&mut once, &switch);
        for gone in [
            "connection",
            "keep-alive",
            "proxy-connection",
            "transfer-encoding",
        ] {
            assert!(!once.contains_key(gone));
        }
        for kept in [
            "host",
            "content-length",
            "authorization",
            "cookie",
            "x-forwarded-for",
        ] {
            assert!(once.get_all(kept).iter().eq(before.get_all(kept)));
        }
        assert_eq!(
            once.contains_key("upgrade"),
            switch != Switch::Stay && before.contains_key("upgrade")
        );
        assert!(once.get_all("te").iter().all(|value| value == "trailers"));
        assert!(once.keys().all(|name| before.contains_key(name)));
        let mut twice = once.clone();
        hop_by_hop::strip(&mut twice, &switch);
        assert_eq!(once, twice);
    }
});
