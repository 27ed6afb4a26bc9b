//! Connections whose bytes come as they are, to a port where policies have something to say of requests.
//!
//! They come in the clear, as streams of a tunnel, or from a pod of this node; [`journey`](super::super::journey) says what must
//! be read of them. What is HTTP goes through the engine, each request judged; everything else is judged as TCP. Where only
//! policies ask that decide nothing, the bytes go on as they are, and a copy of what the client sends is looked at.
//!
//! Invariant: nothing reaches the application of a connection that is denied as TCP but requests that were judged, as the
//! engine wrote them. A policy that decides nothing changes nothing.

use std::{convert::Infallible, io, sync::Arc, time::Instant};

use bytes::BytesMut;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::{
    SWEEP,
    account::{self, KnownEnds},
    authorize,
    look::{Found, look},
    name_host,
    server::Target,
    standing::{Other, Standing},
};
use crate::{
    http::{
        self, Plain, Transport,
        course::{Course, Onward},
        exchange::{Hop, Message, Steer},
        fault::{Fault, Side, Signature},
        overhear::{Heard, overhear},
        pool::Shelf,
        trail::Trail,
    },
    identity::Credentials,
    inbound::{Guard, Reading},
    listener::{
        data_path::DataPath,
        journey::{Journey, Leg},
        measure::Ends,
        serve,
        terms::Terms,
    },
    telemetry::{self, Connection, Entry},
    upstream::{self, Ending, Tap, relay, tunnel::carry},
};

/// A connection that is to be looked at.
pub(in crate::listener) struct Inspected {
    /// To the application.
    leg: Leg,
    guard: Guard,
    reading: Reading,
    /// What the tunnel proved, if it came in one.
    credentials: Option<Arc<Credentials>>,
}

/// Steers its requests.
struct Inspecting {
    path: Arc<DataPath>,
    connection: Arc<Connection>,
    ends: KnownEnds,
    guard: Arc<Guard>,
    leg: Leg,
    shelf: Arc<Shelf>,
    signature: Signature,
}

impl Inspected {
    /// A connection that ends on this node and may be; `None` when nothing of it must be read.
    pub(in crate::listener) fn of(journey: &Journey, credentials: Option<&Arc<Credentials>>) -> Option<Self> {
        match (&journey.leg, &journey.guard) {
            (Ok(leg), Some(guard)) if journey.reading != Reading::Unread => Some(Self {
                leg: leg.clone(),
                guard: guard.clone(),
                reading: journey.reading,
                credentials: credentials.cloned(),
            }),
            _ => None,
        }
    }

    /// Whether nothing but requests may pass: the application need not be there before the first.
    pub(in crate::listener) fn is_of_requests_only(&self) -> bool {
        self.reading == Reading::RequestsOnly
    }

    /// Serves it to its end. `app` stands if anything but requests may pass.
    pub(in crate::listener) async fn serve(
        self,
        path: &Arc<DataPath>,
        entry: &Entry,
        client: impl Into<Transport>,
        app: Option<TcpStream>,
    ) {
        entry.connection().set_upstream(self.leg.addr());
        let credentials = self.credentials.clone();
        let terms = Terms::of(
            &path.store.load(),
            entry.connection(),
            Some(&self.guard),
            credentials,
        );
        let terms = match self.reading {
            // As for any bytes.
            Reading::Unread | Reading::Reported => terms,
            Reading::Tokens | Reading::RequestsOnly => terms.for_requests(),
        };
        // Boxed, since most connections are not inspected: their tasks are not to hold what this needs.
        let mut carried = Box::pin(self.carry(path, entry, &terms, client.into(), app));
        serve::attend(path, entry, &terms, carried.as_mut(), || {}).await;
    }

    async fn carry(
        &self,
        path: &Arc<DataPath>,
        entry: &Entry,
        terms: &Terms<'_>,
        mut client: Transport,
        mut app: Option<TcpStream>,
    ) -> Ending {
        if let Reading::Unread | Reading::Reported = self.reading {
            return self.watch(path, entry, client, app).await;
        }
        let mut seen = BytesMut::new();
        match look(&mut client, app.as_mut(), &mut seen, &path.leaving).await {
            Ok(Found::Requests) => self.engage(path, entry, client, seen, app).await,
            Ok(Found::Bytes(sent)) => self.pass(path, entry, terms, client, (seen, sent), app).await,
            Ok(Found::TooLate) => {
                client.abort();
                abort(app);
                Ending::Broken(io::Error::other("a request that began as something else"))
            }
            Ok(Found::Nothing) => {
                client.close();
                if let Some(app) = app {
                    upstream::in_order(&app);
                }
                Ending::Closed
            }
            Err(error) => {
                client.abort();
                abort(app);
                Ending::Broken(error)
            }
        }
    }

    /// Carries its bytes as they are, and tells what policies that decide nothing say of what is heard in them.
    async fn watch(
        &self,
        path: &Arc<DataPath>,
        entry: &Entry,
        client: Transport,
        app: Option<TcpStream>,
    ) -> Ending {
        let (Some(app), Some(client)) = (app, client.into_plain()) else {
            return Ending::Closed;
        };
        serve::measure(path, entry);
        let (tap, overheard) = upstream::tap();
        let told = overhear(overheard, |heard| {
            let (snapshot, metrics) = (path.store.load(), path.meters.metrics());
            match heard {
                Heard::Bytes => self.guard.report(&snapshot, metrics),
                Heard::Request(request) => {
                    self.guard
                        .report_unjudged(&snapshot, &path.gate, metrics, &request);
                }
            }
        });
        let carried = async move {
            // With it ends what is heard.
            let tap = tap;
            self.join(entry, client, (BytesMut::new(), 0), app, Some(&tap))
                .await
        };
        let (ending, ()) = tokio::join!(carried, told);
        ending
    }

    /// Has its requests served. A connection to the application that stands already serves the first.
    async fn engage(
        &self,
        path: &Arc<DataPath>,
        entry: &Entry,
        client: Transport,
        seen: BytesMut,
        app: Option<TcpStream>,
    ) -> Ending {
        let shelf: Arc<Shelf> = Arc::default();
        if let Some(app) = app {
            shelf.begin_with(app);
        }
        let steer = Arc::new(Inspecting {
            path: Arc::clone(path),
            connection: Arc::clone(entry.connection()),
            ends: KnownEnds::default(),
            guard: Arc::new(self.guard.clone()),
            leg: self.leg.clone(),
            shelf: Arc::clone(&shelf),
            signature: Signature::new(self.guard.workload.node.as_str().into(), Side::Destination),
        });
        let served = http::server::serve(client, seen, &steer, &path.tasks, &path.leaving);
        let sweep = async {
            loop {
                tokio::time::sleep(SWEEP).await;
                shelf.sweep(Instant::now());
            }
        };
        let ending = tokio::select! {
            ending = served => ending,
            () = sweep => Ending::Closed,
        };
        shelf.clear();
        ending
    }

    /// Passes on what is no request, if it may be as TCP.
    async fn pass(
        &self,
        path: &Arc<DataPath>,
        entry: &Entry,
        terms: &Terms<'_>,
        client: Transport,
        (seen, sent): (BytesMut, usize),
        app: Option<TcpStream>,
    ) -> Ending {
        terms.turn_out_bytes();
        let snapshot = path.store.load();
        if terms.check(&snapshot, path.certificates.as_deref()).is_err() {
            // Whoever attends asks the terms again, and tells why.
            client.abort();
            abort(app);
            return Ending::Broken(io::ErrorKind::PermissionDenied.into());
        }
        let Some(app) = app else {
            // The port is declared to speak HTTP: the engine says what is wrong.
            return self.engage(path, entry, client, seen, None).await;
        };
        self.guard.report(&snapshot, path.meters.metrics());
        serve::measure(path, entry);
        let Some(client) = client.into_plain() else {
            return Ending::Closed;
        };
        self.join(entry, client, (seen, sent), app, None).await
    }

    /// Carries bytes, of which the application has the first that were `sent`.
    async fn join(
        &self,
        entry: &Entry,
        client: Plain,
        (seen, sent): (BytesMut, usize),
        mut app: TcpStream,
        tap: Option<&Tap>,
    ) -> Ending {
        let connection = entry.connection();
        let rest = match &client {
            Plain::Tcp(_) => &[][..],
            Plain::Tunnel(_, rest) => rest,
        };
        if let Some(tap) = tap {
            tap.show(rest);
        }
        let write = async {
            app.write_all(&seen[sent..]).await?;
            app.write_all(rest).await
        };
        if let Err(error) = write.await {
            if let Plain::Tcp(client) = &client {
                upstream::abort(client);
            }
            return Ending::Broken(error);
        }
        connection.count(telemetry::Side::ToUpstream, (seen.len() + rest.len()) as u64);
        drop(seen);
        match client {
            Plain::Tcp(client) => relay(&client, &app, connection, tap).await,
            Plain::Tunnel(stream, _) => {
                carry::carry(&app, stream, connection, telemetry::Side::ToDownstream, tap).await
            }
        }
    }
}

impl Steer for Inspecting {
    type Server = Target;
    type Agent = Infallible;
    type Escort = ();

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn connection(&self) -> Option<&Arc<Connection>> {
        Some(&self.connection)
    }

    fn over(&self, trail: &Trail) {
        let to = (&*self.guard.workload, self.guard.addressed.port());
        let ends = self.ends.now(&self.path, to, trail.host(), |snapshot, service| {
            let ends = Ends {
                service,
                ..Ends::from(&*self.connection)
            };
            let upstream = Some(self.leg.addr());
            self.path.meters.requests(snapshot, &ends, upstream)
        });
        account::over(&self.path, Some(&self.connection), trail, &ends);
    }

    async fn steer(&self, message: &mut Message) -> Result<Course<Hop<Target, Infallible>, ()>, Fault> {
        name_host(message, self.guard.addressed)?;
        let version = self.path.store.load().version();
        let kept = authorize(&self.path, &self.guard, &mut message.parts).await?;
        let standing = Standing {
            path: Arc::clone(&self.path),
            version,
            own: Arc::clone(&self.guard.workload),
            // Who proved what is a term of the whole connection.
            other: Other::Unproved,
            guard: Some((Arc::clone(&self.guard), kept)),
            carrier: None,
        };
        message.attached.revoked = Some(standing.watch());
        let hop = Hop::Server(Target {
            path: Arc::clone(&self.path),
            shelf: Arc::clone(&self.shelf),
            asker: self.connection.client,
            leg: self.leg.clone(),
            claim: Arc::clone(&self.connection.claim),
        });
        Ok(Course::Onward(Onward {
            hop,
            escort: (),
            deadline: None,
        }))
    }
}

fn abort(app: Option<TcpStream>) {
    if let Some(app) = app {
        upstream::abort(&app);
    }
}
