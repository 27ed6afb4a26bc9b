//! What a name may look like, and which name was probably meant.

/// Why `name` is no DNS label (RFC 1123), if it is none.
pub(super) fn dns_label(name: &str) -> Result<(), String> {
    if name.len() > 63 {
        return Err(format!("{name:?} is longer than 63 characters"));
    }
    if is_label(name) {
        Ok(())
    } else {
        Err(format!("{name:?} is not a DNS label"))
    }
}

/// Why `name` is no DNS name of labels joined by dots (RFC 1123), if it is none.
pub(super) fn dns_name(name: &str) -> Result<(), String> {
    if name.len() > 253 {
        return Err(format!("{name:?} is longer than 253 characters"));
    }
    if name.split('.').all(is_label) {
        Ok(())
    } else {
        Err(format!("{name:?} is not a DNS name"))
    }
}

/// Why `name` is no port name (RFC 6335 section 5.1), if it is none.
pub(super) fn port_name(name: &str) -> Result<(), String> {
    let fits = name.len() <= 15 && is_label(name) && !name.contains("--");
    if fits && name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        Ok(())
    } else {
        Err(format!("{name:?} is not a port name"))
    }
}

/// Why `key` is no label key (a name, optionally behind a DNS name and a slash), if it is none.
pub(super) fn label_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let prefix_fits = prefix.is_none_or(|prefix| dns_name(prefix).is_ok());
    if prefix_fits && !name.is_empty() && is_label_text(name) {
        Ok(())
    } else {
        Err(format!("{key:?} is not a label name"))
    }
}

/// Why `value` is no label value, if it is none.
pub(super) fn label_value(value: &str) -> Result<(), String> {
    if is_label_text(value) {
        Ok(())
    } else {
        Err(format!("{value:?} is not a label value"))
    }
}

/// The known word that `word` was probably meant to be.
pub(super) fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| {
            (
                distance(&word.to_lowercase(), &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends_well = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    bytes.len() <= 63 && bytes.iter().all(inner) && ends_well(bytes.first()) && ends_well(bytes.last())
}

/// The fewest insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut cost = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                cost = cost.min(before_last[j - 2] + 1);
            }
            row.push(cost);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "web-1", "0", "a".repeat(63).as_str()] {
            assert_eq!(dns_label(name), Ok(()), "{name}");
            assert_eq!(dns_name(name), Ok(()), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a_b", "é", "a b"] {
            assert!(dns_label(name).is_err(), "{name}");
            assert!(dns_name(name).is_err(), "{name}");
        }
        assert!(dns_label("a.b").is_err() && dns_name("a.b").is_ok());
        assert!(dns_name("a..b").is_err() && dns_name(&"a.".repeat(200)).is_err());
        assert!(dns_label(&"a".repeat(64)).is_err() && dns_name(&"a".repeat(64)).is_err());
    }

    #[test]
    fn port_names() {
        for name in ["http", "h2c", "80a", "a-b"] {
            assert_eq!(port_name(name), Ok(()), "{name}");
        }
        for name in ["", "80", "a--b", "-a", "HTTP", "a-name-far-too-long"] {
            assert!(port_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn labels() {
        for key in ["app", "app.kubernetes.io/name", "A_b.c"] {
            assert_eq!(label_key(key), Ok(()), "{key}");
        }
        for key in ["", "/a", "a/", "a b", "-a", "a/b/c", "A.b/c"] {
            assert!(label_key(key).is_err(), "{key}");
        }
        assert!(label_value("").is_ok() && label_value("v1.2_3").is_ok());
        assert!(label_value("-").is_err() && label_value(&"a".repeat(64)).is_err());
    }

    #[test]
    fn the_closest_word_is_close() {
        let known = ["ports", "selector", "clusterIP", "clusterIPs"];
        for (word, meant) in [
            ("prots", Some("ports")),
            ("port", Some("ports")),
            ("Selector", Some("selector")),
            ("clusterip", Some("clusterIP")),
            ("selctr", Some("selector")),
            ("replicas", None),
            ("x", None),
        ] {
            assert_eq!(closest(word, known), meant, "{word}");
        }
    }

    proptest::proptest! {
        #[test]
        fn distance_is_a_metric(a in "[a-c]{0,6}", b in "[a-c]{0,6}") {
            proptest::prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            proptest::prop_assert_eq!(distance(&a, &b) == 0, a == b);
            proptest::prop_assert!(distance(&a, &b) <= a.len().max(b.len()));
        }
    }
}
