//! What is an identity and what is not.

use proptest::prelude::*;

use super::*;

#[test]
fn an_identity_is_its_parts() {
    let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
    assert_eq!(id.trust_domain(), "cluster.local");
    assert_eq!(id.namespace(), "shop");
    assert_eq!(id.service_account(), "cart");
    assert_eq!(id.principal(), "cluster.local/ns/shop/sa/cart");
    assert_eq!(id.account(), ObjectKey::new("shop", "cart"));
    assert!(id.is_in(&"cluster.local".parse().unwrap()));
    assert!(!id.is_in(&"cluster".parse().unwrap()));
    assert_eq!(
        serde_json::to_string(&id).unwrap(),
        "\"spiffe://cluster.local/ns/shop/sa/cart\""
    );
}

#[test]
fn what_is_no_identity_says_why() {
    let segment = |text: &str| SpiffeIdError::Segment(text.to_owned());
    let domain = |c| SpiffeIdError::TrustDomain(TrustDomainError::Character(c));
    let cases = [
        ("", SpiffeIdError::Scheme),
        ("https://td/ns/a/sa/b", SpiffeIdError::Scheme),
        ("SPIFFE://td/ns/a/sa/b", SpiffeIdError::Scheme),
        (
            "spiffe:///ns/a/sa/b",
            SpiffeIdError::TrustDomain(TrustDomainError::Empty),
        ),
        ("spiffe://Td/ns/a/sa/b", domain('T')),
        ("spiffe://td:1/ns/a/sa/b", domain(':')),
        ("spiffe://u@td/ns/a/sa/b", domain('@')),
        ("spiffe://tä/ns/a/sa/b", domain('ä')),
        ("spiffe://td", SpiffeIdError::Shape),
        ("spiffe://td/", SpiffeIdError::Shape),
        ("spiffe://td/ns/a", SpiffeIdError::Shape),
        ("spiffe://td/ns/a/sa", SpiffeIdError::Shape),
        ("spiffe://td/ns/a/sb/b", SpiffeIdError::Shape),
        ("spiffe://td/sa/a/ns/b", SpiffeIdError::Shape),
        ("spiffe://td/ns/a/sa/b/", SpiffeIdError::Shape),
        ("spiffe://td/ns/a/sa/b/c", SpiffeIdError::Shape),
        ("spiffe://td/ns/a//sa/b", SpiffeIdError::Shape),
        ("spiffe://td//ns/a/sa/b", SpiffeIdError::Shape),
        ("spiffe://td/ns//sa/b", segment("")),
        ("spiffe://td/ns/a/sa/", segment("")),
        ("spiffe://td/ns/./sa/b", segment(".")),
        ("spiffe://td/ns/a/sa/..", segment("..")),
        ("spiffe://td/ns/a/sa/b?q", segment("b?q")),
        ("spiffe://td/ns/a/sa/b#f", segment("b#f")),
        ("spiffe://td/ns/a/sa/%62", segment("%62")),
        ("spiffe://td/ns/a b/sa/c", segment("a b")),
    ];
    for (text, expected) in cases {
        assert_eq!(text.parse::<SpiffeId>(), Err(expected), "{text}");
    }
}

#[test]
fn lengths_are_bounded() {
    let long = |n: usize| format!("spiffe://td/ns/a/sa/{}", "b".repeat(n));
    assert!(long(2048 - long(0).len()).parse::<SpiffeId>().is_ok());
    assert_eq!(
        long(2049 - long(0).len()).parse::<SpiffeId>(),
        Err(SpiffeIdError::TooLong)
    );
    assert!("a".repeat(255).parse::<TrustDomain>().is_ok());
    assert_eq!(
        "a".repeat(256).parse::<TrustDomain>(),
        Err(TrustDomainError::TooLong)
    );
}

/// The shape again, by other means: splitting at every slash.
fn naive(uri: &str) -> bool {
    let parts: Vec<&str> = uri.split('/').collect();
    let segment = |text: &str| {
        !matches!(text, "" | "." | "..")
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
    };
    let domain = |text: &str| {
        (1..=255).contains(&text.len())
            && text
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c))
    };
    uri.len() <= 2048
        && matches!(parts[..], ["spiffe:", "", td, "ns", ns, "sa", sa]
            if domain(td) && segment(ns) && segment(sa))
}

proptest! {
    #[test]
    fn agrees_with_the_naive_parser(
        parts in proptest::collection::vec(
            prop_oneof![
                Just("spiffe:".to_owned()), Just("".to_owned()), Just("ns".to_owned()), Just("sa".to_owned()),
                "[a-zA-Z0-9._%: -]{0,4}",
            ],
            0..9,
        ),
    ) {
        let uri = parts.join("/");
        prop_assert_eq!(uri.parse::<SpiffeId>().is_ok(), naive(&uri), "{}", uri);
    }

    #[test]
    fn nearly_right_text_too(text in "spiffe://[a-zA-Z.]{0,3}/(ns|Ns)/[a-zA-Z./]{0,4}/sa/[a-z%./]{0,4}") {
        prop_assert_eq!(text.parse::<SpiffeId>().is_ok(), naive(&text), "{}", text);
    }

    #[test]
    fn comes_back_as_it_went(td in "[a-z0-9._-]{1,20}", ns in "[a-z0-9-]{1,20}", sa in "[a-zA-Z0-9_-]{1,20}") {
        let domain: TrustDomain = td.parse().unwrap();
        let id = SpiffeId::new(&domain, &ObjectKey::new(ns.as_str(), sa.as_str())).unwrap();
        prop_assert_eq!(id.to_string().parse::<SpiffeId>().unwrap(), id.clone());
        prop_assert_eq!((id.trust_domain(), id.namespace(), id.service_account()), (&*td, &*ns, &*sa));
    }

    #[test]
    fn never_panics(text in any::<String>()) {
        let _ = text.parse::<SpiffeId>();
        let _ = text.parse::<TrustDomain>();
    }
}
