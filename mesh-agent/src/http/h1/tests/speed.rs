//! What a message costs in CPU time. Not run by itself:
//! `cargo test --release -p mesh-agent --lib http::h1::tests::speed -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::*;

const REQUEST: &[u8] = b"GET /api/v1/items?page=2&sort=name HTTP/1.1\r\n\
    Host: catalogue.shop.svc.cluster.local:8080\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\n\
    Accept: application/json\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef\r\n\
    X-Request-Id: 6f1c1f0a-3d1e-4f4e-9a53-1e1ad3f2c9f7\r\n\
    Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
    Connection: keep-alive\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Content-Type: application/json\r\n\
    Content-Length: 27\r\n\
    Date: Mon, 27 Jul 2026 12:28:53 GMT\r\n\
    Server: nginx\r\n\
    Cache-Control: no-store\r\n\r\n\
    {\"items\":[],\"page\":2,\"n\":0}";

/// The same bytes for ever, one message a read.
struct Repeated(&'static [u8]);

impl AsyncRead for Repeated {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buf.put_slice(self.0);
        Poll::Ready(Ok(()))
    }
}

/// Takes everything and keeps nothing.
struct Nowhere;

impl AsyncWrite for Nowhere {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(black_box(buf).len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The best of some rounds, in CPU time of this thread: others on the machine count little.
fn measure(what: &str, mut once: impl FnMut()) {
    const ROUNDS: u32 = 100_000;
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let best = (0..10)
        .map(|_| {
            let start = now();
            for _ in 0..ROUNDS {
                once();
            }
            (now() - start).as_nanos() / u128::from(ROUNDS)
        })
        .min();
    println!("{what:<28} {:>6} ns", best.unwrap_or_default());
}

#[test]
#[ignore = "a measurement, for a quiet machine and a release build"]
fn heads_are_read_and_written() {
    let mut cx = Context::from_waker(Waker::noop());
    let mut reader = Reader::new(Repeated(REQUEST), Limits::default());
    measure("read a request", || {
        let head = reader.poll_request(&mut cx);
        assert!(matches!(black_box(head), Poll::Ready(Ok(Some(_)))));
    });
    let mut writer = Writer::new(Nowhere);
    measure("read, strip, write a request", || {
        let Poll::Ready(Ok(Some(mut head))) = reader.poll_request(&mut cx) else {
            panic!("a request is always there");
        };
        hop_by_hop::strip(&mut head.parts.headers, &head.switch);
        writer
            .request(&head.parts, Target::Origin, head.body, KeepAlive::Keep)
            .unwrap();
        writer.finish(None).unwrap();
        assert!(writer.poll_flush(&mut cx).is_ready());
    });
    let mut reader = Reader::new(Repeated(RESPONSE), Limits::default());
    measure("the same for a response", || {
        let Poll::Ready(Ok(mut head)) = reader.poll_response(&mut cx, get()) else {
            panic!("a response is always there");
        };
        hop_by_hop::strip(&mut head.parts.headers, &head.switch);
        writer
            .response(
                head.parts.status,
                &head.parts.headers,
                head.body,
                get(),
                head.keep_alive,
            )
            .unwrap();
        while let Poll::Ready(Some(frame)) = reader.poll_frame(&mut cx) {
            writer.data(frame.unwrap().into_data().unwrap()).unwrap();
        }
        writer.finish(None).unwrap();
        assert!(writer.poll_flush(&mut cx).is_ready());
    });
    let parsed = |bytes: &[u8]| {
        let mut slots = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut slots);
        assert!(request.parse(black_box(bytes)).unwrap().is_complete());
    };
    measure("httparse alone", || parsed(REQUEST));
}
