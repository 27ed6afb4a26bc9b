//! How many handshakes of other agents one data worker has under way, together and from each source.
//!
//! `mesh` asks before it waits for the first byte of a connection, and gives the place back when the peer has proved
//! who it is. Invariant: one source can take only its share, so a flood from one workload leaves room for the others.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use thiserror::Error;

/// Handshakes under way on one data worker. Each costs a socket and some tens of KiB.
const TOGETHER_MAX: usize = 1024;
/// Of these, from one source. An agent makes one tunnel for each port it dials and worker it has; its clients wait
/// for it together.
const SOURCE_MAX: usize = 128;

/// The handshakes under way.
#[derive(Debug, Default)]
pub(crate) struct Admission(Arc<Mutex<UnderWay>>);

#[derive(Debug, Default)]
struct UnderWay {
    together: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// One handshake's place; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    source: IpAddr,
    under_way: Arc<Mutex<UnderWay>>,
}

/// There is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Full {
    #[error("{SOURCE_MAX} handshakes of {0} are under way already")]
    Source(IpAddr),
    #[error("{TOGETHER_MAX} handshakes are under way already")]
    Together,
}

impl Admission {
    /// A place for a handshake with `source`, now or not at all.
    pub(crate) fn admit(&self, source: IpAddr) -> Result<Place, Full> {
        let mut under_way = lock(&self.0);
        if under_way.together >= TOGETHER_MAX {
            return Err(Full::Together);
        }
        let of_source = under_way.by_source.entry(source).or_default();
        if *of_source >= SOURCE_MAX {
            return Err(Full::Source(source));
        }
        *of_source += 1;
        under_way.together += 1;
        drop(under_way);
        Ok(Place {
            source,
            under_way: Arc::clone(&self.0),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = lock(&self.under_way);
        under_way.together -= 1;
        if let Some(of_source) = under_way.by_source.get_mut(&self.source) {
            *of_source -= 1;
            if *of_source == 0 {
                under_way.by_source.remove(&self.source);
            }
        }
    }
}

fn lock(under_way: &Mutex<UnderWay>) -> std::sync::MutexGuard<'_, UnderWay> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: usize) -> IpAddr {
        IpAddr::from([10, 0, 0, u8::try_from(number).unwrap()])
    }

    #[test]
    fn a_source_takes_its_share_and_no_more() {
        let admission = Admission::default();
        let mut places: Vec<_> = (0..SOURCE_MAX)
            .map(|_| admission.admit(source(1)).unwrap())
            .collect();
        assert_eq!(admission.admit(source(1)).unwrap_err(), Full::Source(source(1)));
        assert!(admission.admit(source(2)).is_ok(), "another source");
        places.pop();
        assert!(admission.admit(source(1)).is_ok(), "a place was given back");
    }

    #[test]
    fn all_sources_together_are_bounded_and_nothing_is_remembered_of_them() {
        let admission = Admission::default();
        let places: Vec<_> = (0..TOGETHER_MAX)
            .map(|at| admission.admit(source(at / SOURCE_MAX)).unwrap())
            .collect();
        assert_eq!(admission.admit(source(200)).unwrap_err(), Full::Together);
        drop(places);
        let under_way = lock(&admission.0);
        assert_eq!((under_way.together, under_way.by_source.len()), (0, 0));
    }
}
