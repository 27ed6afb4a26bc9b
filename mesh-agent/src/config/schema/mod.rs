//! What each kind of object looks like in a file, and the way from there to the model.
//!
//! One file per kind: serde structs for the shape, then checks that turn them into model values. A check goes on
//! after a fault, so that one look at a file shows everything that is wrong with an object.

mod authorization;
mod condition;
mod matching;
mod metadata;
mod peer_authentication;
mod ports;
mod request_authentication;
mod service;
mod workload;

use std::net::IpAddr;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::decode::{At, decode};
use super::fault::Fault;
use super::tree::Node;

pub(super) use authorization::authorization_policy;
pub(super) use peer_authentication::peer_authentication;
pub(super) use request_authentication::request_authentication;
pub(super) use service::service;
pub(super) use workload::workload;

/// Checks the frame of a `List`; its items are objects of their own.
pub(super) fn check_list(list: &Node) -> Result<(), Vec<Fault>> {
    #[derive(Deserialize)]
    struct List {
        items: Vec<IgnoredAny>,
    }
    let list: List = decode(list, &[("List", &["apiVersion", "kind", "metadata"])])?;
    drop(list.items);
    Ok(())
}

/// The faults found so far in one object.
#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    /// Keeps the value of a check that went well, and the fault of one that did not.
    fn keep<T>(&mut self, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.0.push(fault)).ok()
    }
}

/// An address that one workload or service may have.
fn address(text: &At<String>) -> Result<IpAddr, Fault> {
    let fault = |reason: &str, remedy: &str| text.place.fault(format!("{} {reason}", text.value), remedy);
    let Ok(ip) = text.value.parse::<IpAddr>() else {
        let host = text
            .value
            .split_once('/')
            .filter(|(host, _)| host.parse::<IpAddr>().is_ok());
        return Err(match host {
            Some((host, _)) => fault("is a network, not an address", &format!("use {host}")),
            None => fault("is not an IP address", "use one such as 10.1.0.10 or fd00::10"),
        });
    };
    let ip = ip.to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || broadcast {
        return Err(fault(
            "cannot be the address of one object in a mesh",
            "use a unicast address",
        ));
    }
    Ok(ip)
}

#[cfg(test)]
mod tests;
