//! Setting, adding and removing headers.

use http::HeaderMap;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use http::request::Parts;
use mesh_common::model::HeaderModifier;

use super::host::Host;

/// Changes of headers, in the order set, add, remove. No header is in two of them.
#[derive(Debug)]
pub(super) struct HeaderChange {
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
    remove: Box<[HeaderName]>,
    /// The host is not only a header.
    host: Option<Host>,
}

impl HeaderChange {
    pub(super) fn new(change: &HeaderModifier) -> Result<Self, String> {
        let pairs = |list: &[(String, String)]| -> Result<Vec<_>, String> {
            list.iter()
                .map(|(name, text)| {
                    let value = HeaderValue::from_str(text);
                    let value = value.map_err(|_| format!("{text:?} is not the value of a header"))?;
                    Ok((header(name)?, value))
                })
                .collect()
        };
        let mut set = pairs(&change.set)?;
        let add = pairs(&change.add)?;
        let remove: Vec<_> = change
            .remove
            .iter()
            .map(|name| header(name))
            .collect::<Result<_, _>>()?;
        if remove.contains(&HOST) || add.iter().any(|(name, _)| *name == HOST) {
            return Err("the host of a request can be set, but not removed or added to".to_owned());
        }
        let host = set.iter().position(|(name, _)| *name == HOST);
        let host = match host.map(|at| set.remove(at)) {
            Some((_, value)) => Some(Host::new(value.to_str().unwrap_or_default())?),
            None => None,
        };
        Ok(Self {
            set: set.into(),
            add: add.into(),
            remove: remove.into(),
            host,
        })
    }

    pub(super) fn apply_to_request(&self, request: &mut Parts) {
        self.apply(&mut request.headers);
        if let Some(host) = &self.host {
            host.put(request);
        }
    }

    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            append(headers, name, value);
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

/// Puts a value behind those that are there, in one list.
pub(super) fn append(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
    // Cookies contain commas, so that each has a line of its own (RFC 9110 section 5.3).
    if *name == SET_COOKIE {
        headers.append(name, value.clone());
        return;
    }
    let mut list = Vec::new();
    for known in headers.get_all(name) {
        list.extend_from_slice(known.as_bytes());
        list.push(b',');
    }
    list.extend_from_slice(value.as_bytes());
    // Values and commas together are a value.
    let list = HeaderValue::from_bytes(&list).unwrap_or_else(|_| value.clone());
    headers.insert(name, list);
}

/// A header that a route may change.
fn header(name: &str) -> Result<HeaderName, String> {
    let header = HeaderName::from_bytes(name.as_bytes());
    let header = header.map_err(|_| format!("{name:?} is not the name of a header"))?;
    let framing = [
        CONNECTION,
        CONTENT_LENGTH,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    if header.as_str().starts_with("nodemesh-") {
        return Err(format!(
            "{header} belongs to the mesh and cannot be changed by a route"
        ));
    }
    if framing.contains(&header) {
        return Err(format!(
            "{header} belongs to the connection and cannot be changed by a route"
        ));
    }
    Ok(header)
}
