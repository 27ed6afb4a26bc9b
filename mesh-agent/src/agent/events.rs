//! Reads what the kernel half tells about connections that the data path does not see.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aya::maps::{MapData, RingBuf};
use mesh_common::kernel::{EventKind, FlowEvent};
use tokio_util::sync::CancellationToken;

use crate::{
    kernel::raw,
    node::PodTable,
    runtime::Workers,
    telemetry::{Cause, Direction, Flow, FlowKind, FlowLog, FlowSubject, Process},
};

/// How often the ring is emptied. The kernel half wakes nobody for it.
const PERIOD: Duration = Duration::from_millis(10);
/// After this many empty looks the ring is looked at less often.
const QUIET_LOOKS: u32 = 50;
const QUIET_PERIOD: Duration = Duration::from_millis(100);

/// Empties the ring until told to stop.
pub(super) async fn run(
    mut ring: RingBuf<MapData>,
    workers: Arc<Workers>,
    pods: Arc<PodTable>,
    flows: Arc<FlowLog>,
    stop: CancellationToken,
) {
    let mut quiet = 0;
    loop {
        let period = if quiet < QUIET_LOOKS { PERIOD } else { QUIET_PERIOD };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
        quiet += 1;
        while let Some(item) = ring.next() {
            quiet = 0;
            if let Some(event) = raw::read_value::<FlowEvent>(&item) {
                take(&event, &workers, &pods, &flows);
            }
        }
    }
}

fn take(event: &FlowEvent, workers: &Workers, pods: &PodTable, flows: &FlowLog) {
    let (kind, direction, reason) = match EventKind::of(event.kind) {
        Some(EventKind::Abandoned) => {
            // Most often this is the echo of an answer the agent gave; the worker knows whether it was not.
            for worker in workers.iter() {
                worker.path().abandon(event.cookie);
            }
            return;
        }
        Some(EventKind::Refused) => (
            FlowKind::Refused,
            Direction::Outbound,
            "the kernel half has no listener for the pod",
        ),
        Some(EventKind::Dropped) => (
            FlowKind::Dropped,
            Direction::Inbound,
            "the kernel half has no listener for the address",
        ),
        None => return,
    };
    let table = pods.load();
    let workload = table
        .values()
        .find(|pod| pod.number == event.pod)
        .map(|pod| Arc::clone(&pod.workload));
    let process = (event.pid != 0).then_some(Process {
        pid: event.pid,
        comm: event.comm,
    });
    let subject = FlowSubject::Request {
        workload,
        direction,
        client: event.src.into(),
        original_destination: event.dst.into(),
        process,
    };
    flows.push(Flow {
        time: SystemTime::now(),
        kind,
        subject,
        duration: None,
        cause: Some(Cause::new("no-listener", reason)),
    });
}
