//! What becomes of a request, as whoever steers it says: where it goes, what accompanies it there, how long it may take; or
//! what is answered instead.
//!
//! Invariant: an escort lives until the answer has ended, however it ends.

use std::time::Duration;

use http::{HeaderMap, StatusCode, response};
use mesh_common::model::RouteTimeouts;
use tokio::time::{Instant, timeout_at};

use super::fault::{Cause, Fault};

/// What becomes of a request; `H` is a [`Hop`](super::exchange::Hop).
pub enum Course<H, E> {
    /// It is sent on.
    Onward(Onward<H, E>),
    /// It is answered with this, without a body, and nobody is asked.
    Answer(Box<response::Parts>),
}

/// A request that is sent on.
pub struct Onward<H, E> {
    /// Where it goes.
    pub hop: H,
    /// What goes with it.
    pub escort: E,
    /// When it has to be over.
    pub deadline: Option<Deadline>,
}

/// Goes with a request from the choice of its way to the end of its answer.
pub trait Escort: Send {
    /// Looks at the head of the answer, and may change it. Not called when there is none from whoever was asked.
    fn answered(&mut self, _status: StatusCode, _headers: &mut HeaderMap) {}
}

/// Nobody.
impl Escort for () {}

/// When a request has to be over, and why.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    cause: Cause,
    limit: Duration,
}

impl Deadline {
    /// The first limit of a route that a request meets which begins now.
    pub fn of(timeouts: &RouteTimeouts) -> Option<Self> {
        let (cause, limit) = match (timeouts.request, timeouts.backend_request) {
            (Some(whole), Some(attempt)) if attempt < whole => (Cause::TryTimeout, attempt),
            (Some(whole), _) => (Cause::Timeout, whole),
            (None, Some(attempt)) => (Cause::TryTimeout, attempt),
            (None, None) => return None,
        };
        let at = Instant::now().checked_add(limit)?;
        Some(Self { at, cause, limit })
    }

    /// Does the work as long as there is time. Large work is to be handed over pinned.
    pub async fn bound<T>(deadline: Option<Self>, work: impl Future<Output = T>) -> Result<T, Fault> {
        match deadline {
            None => Ok(work.await),
            Some(deadline) => timeout_at(deadline.at, work).await.map_err(|_| deadline.fault()),
        }
    }

    fn fault(self) -> Fault {
        let limit = humantime::format_duration(self.limit);
        let reason = match self.cause {
            Cause::TryTimeout => format!("the backend took longer than the route's {limit} for one try"),
            _ => format!("it took longer than the route's {limit}"),
        };
        Fault::new(self.cause, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(request: Option<u64>, backend_request: Option<u64>) -> RouteTimeouts {
        RouteTimeouts {
            request: request.map(Duration::from_millis),
            backend_request: backend_request.map(Duration::from_millis),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_limit_counts() {
        for (request, attempt, cause, millis) in [
            (Some(50), None, Cause::Timeout, 50),
            (None, Some(40), Cause::TryTimeout, 40),
            (Some(50), Some(40), Cause::TryTimeout, 40),
            (Some(50), Some(50), Cause::Timeout, 50),
            (Some(50), Some(60), Cause::Timeout, 50),
        ] {
            let begun = Instant::now();
            let deadline = Deadline::of(&limits(request, attempt));
            let fault = Deadline::bound(deadline, std::future::pending::<()>())
                .await
                .unwrap_err();
            assert_eq!(fault.cause, cause, "{request:?} {attempt:?}");
            assert_eq!(begun.elapsed().as_millis(), millis, "{request:?} {attempt:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_in_time_is_left_alone() {
        let work = tokio::time::sleep(Duration::from_millis(30));
        let deadline = Deadline::of(&limits(Some(40), None));
        Deadline::bound(deadline, work).await.unwrap();
        assert!(Deadline::of(&limits(None, None)).is_none());
        let work = tokio::time::sleep(Duration::from_secs(3600));
        Deadline::bound(None, work).await.unwrap();
    }
}
