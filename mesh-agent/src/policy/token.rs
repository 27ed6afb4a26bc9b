//! What a verified token says of the sender of a request.
//!
//! `identity` verifies tokens and makes [`Token`]s of them; here they are only read. Numbers and truth values become
//! texts when the token is made, for policies compare texts, and a decision makes none.

use serde_json::{Map, Value};

/// The claims of a token whose signature, issuer, audience and time were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    claims: Map<String, Value>,
}

/// Claims that list words in one text, as OAuth does.
const WORD_LISTS: [&str; 2] = ["scope", "permission"];

impl Token {
    /// Takes the claims of a verified token.
    pub fn new(mut claims: Map<String, Value>) -> Self {
        claims.values_mut().for_each(to_texts);
        for name in WORD_LISTS {
            if let Some(Value::String(words)) = claims.get(name) {
                let words = words.split_whitespace().map(Value::from).collect();
                claims.insert(name.to_owned(), Value::Array(words));
            }
        }
        Self { claims }
    }

    /// Its principal `<issuer>/<subject>` in pieces; a token without either has none.
    pub fn principal(&self) -> Option<[&str; 3]> {
        let text = |name| self.text(name).filter(|text| !text.is_empty());
        Some([text("iss")?, "/", text("sub")?])
    }

    /// Those it is meant for.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        self.claim(&["aud"])
    }

    /// The party that it was issued to.
    pub fn presenter(&self) -> Option<&str> {
        self.text("azp")
    }

    /// The texts of a claim, from the outermost name inwards: one, those of a list, or none.
    pub fn claim<'t>(&'t self, path: &[impl AsRef<str>]) -> impl Iterator<Item = &'t str> {
        let mut steps = path.iter();
        let outermost = steps.next().and_then(|step| self.claims.get(step.as_ref()));
        let value = steps.try_fold(outermost, |value, step| {
            value?.as_object().map(|map| map.get(step.as_ref()))
        });
        let value = value.flatten();
        let list = value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        value
            .and_then(Value::as_str)
            .into_iter()
            .chain(list.iter().filter_map(Value::as_str))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.claims.get(name).and_then(Value::as_str)
    }
}

/// Makes texts of numbers and truth values, however deep they lie.
fn to_texts(value: &mut Value) {
    match value {
        Value::Number(number) => *value = Value::String(number.to_string()),
        Value::Bool(truth) => *value = Value::String(truth.to_string()),
        Value::Array(list) => list.iter_mut().for_each(to_texts),
        Value::Object(map) => map.values_mut().for_each(to_texts),
        Value::Null | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(claims: Value) -> Token {
        let Value::Object(claims) = claims else { panic!() };
        Token::new(claims)
    }

    #[test]
    fn texts_lists_and_nested_claims() {
        let token = token(json!({
            "iss": "https://issuer", "sub": "me", "aud": ["a", "b"], "azp": "app",
            "level": 7, "root": false, "scope": "read  write", "note": "two words",
            "realm": {"access": {"roles": ["x", 5, {"not": "a text"}]}},
        }));
        let claim = |path: &[&str]| token.claim(path).collect::<Vec<_>>();
        assert_eq!(token.principal(), Some(["https://issuer", "/", "me"]));
        assert_eq!(token.audiences().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(token.presenter(), Some("app"));
        assert_eq!(claim(&["level"]), ["7"]);
        assert_eq!(claim(&["root"]), ["false"]);
        assert_eq!(claim(&["scope"]), ["read", "write"]);
        assert_eq!(claim(&["note"]), ["two words"]);
        assert_eq!(claim(&["realm", "access", "roles"]), ["x", "5"]);
        for absent in [&["realm"][..], &["realm", "x"], &["iss", "x"], &["none"], &[]] {
            assert_eq!(claim(absent), [""; 0], "{absent:?}");
        }
    }

    #[test]
    fn a_principal_takes_issuer_and_subject() {
        for claims in [
            json!({"iss": "i"}),
            json!({"sub": "s"}),
            json!({"iss": "i", "sub": ""}),
        ] {
            assert_eq!(token(claims).principal(), None);
        }
    }
}
