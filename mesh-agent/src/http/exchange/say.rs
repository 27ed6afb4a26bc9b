//! Answers that the mesh makes, and answers that it breaks off.

use std::future::poll_fn;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Method, StatusCode, header};

use super::{Done, Stage, Steer};
use crate::http::{
    Broken,
    downstream::Downstream,
    fault::{Dialect, Fault, Signature},
    h1::{Framing, KeepAlive},
    pump::{Last, Sink as _, Source as _},
};

/// Answers a request that is not served, and tells of it.
pub(super) async fn refused<S: Steer>(
    steer: &S,
    fault: &Fault,
    dialect: Dialect,
    method: &Method,
    down: &mut Downstream<'_>,
) -> Done {
    tracing::debug!(%fault, side = steer.signature().side().word(), "a request is answered by the mesh");
    down.trail().faulted(fault.clone());
    refuse(steer.signature(), fault, dialect, method, down).await
}

/// Breaks off an answer that was begun.
pub(super) fn cut(
    signature: &Signature,
    fault: &Fault,
    dialect: Dialect,
    stage: Stage,
    down: &mut Downstream<'_>,
) -> Done {
    // A status other than OK at its end cannot be taken for the end of a whole answer. One whose length was said has to be reset.
    let open = stage
        == Stage::Answering {
            body: Framing::Chunked,
        };
    if open && dialect == Dialect::Grpc && down.end_grpc(signature.grpc_status(fault)).is_some() {
        return Done::Answered;
    }
    down.reset(Reason::CANCEL);
    Done::Broken(Broken::Stopped(fault.cause))
}

/// Answers in the name of the mesh.
pub(in crate::http) async fn refuse(
    signature: &Signature,
    fault: &Fault,
    dialect: Dialect,
    method: &Method,
    down: &mut Downstream<'_>,
) -> Done {
    let answer = signature.answer(fault, dialect);
    say(answer.status, answer.headers, answer.body, method, down).await
}

/// Gives an answer that nobody was asked for.
pub(super) async fn say(
    status: StatusCode,
    mut headers: HeaderMap,
    mut body: Bytes,
    method: &Method,
    down: &mut Downstream<'_>,
) -> Done {
    if *method == Method::HEAD {
        body = Bytes::new();
    }
    // A client may go on sending a body that nobody reads.
    if !down.is_done()
        && let Downstream::H1(turn) = down
    {
        turn.keep_alive = KeepAlive::Close;
    }
    let framing = if *method == Method::HEAD || status == StatusCode::NO_CONTENT {
        Framing::None
    } else {
        Framing::Length(body.len() as u64)
    };
    if !body.is_empty() {
        headers.insert(header::CONTENT_LENGTH, body.len().into());
    }
    let answered = async {
        down.respond(status, headers, framing)?;
        while !body.is_empty() {
            poll_fn(|cx| down.poll_data(cx, &mut body, Last::Yes)).await?;
        }
        poll_fn(|cx| down.poll_flush(cx)).await
    };
    match answered.await {
        Ok(()) => Done::Answered,
        Err(broken) => Done::Broken(broken),
    }
}
