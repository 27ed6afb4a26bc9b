//! Whose host a request names, and who is told of it.

use http::{Version, header};

use super::*;

/// Says in its answer what it was asked for: the authority of the target, and each Host header.
async fn h2_hosts(stream: TcpStream) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let authority = request
            .uri()
            .authority()
            .map_or("none", |authority| authority.as_str());
        let mut response = Response::builder().header("x-authority", authority);
        for host in request.headers().get_all(header::HOST) {
            response = response.header("x-host", host);
        }
        respond.send_response(response.body(()).unwrap(), true).unwrap();
    }
}

/// What becomes of a request with these headers: the status, and the authority and the Host that the server was told.
async fn asked(addr: SocketAddr, mut request: Request<()>, hosts: &[&'static str]) -> (StatusCode, String) {
    for host in hosts {
        request.headers_mut().append(header::HOST, host.parse().unwrap());
    }
    let mut client = h2_client(addr).await;
    let (response, _) = client.send_request(request, true).unwrap();
    let response = within(response).await.unwrap();
    let told: Vec<_> = ["x-authority", "x-host"]
        .into_iter()
        .flat_map(|name| response.headers().get_all(name))
        .map(|value| value.to_str().unwrap())
        .collect();
    (response.status(), told.join(" "))
}

#[tokio::test]
async fn a_server_is_told_the_host_that_was_judged_and_no_other() {
    let (addr, _leaving) = engine(server(h2_hosts).await).await;
    let request = || Request::get("http://ok.example/").body(()).unwrap();
    let passed = (StatusCode::OK, "ok.example".to_owned());
    assert_eq!(asked(addr, request(), &[]).await, passed);
    assert_eq!(asked(addr, request(), &["ok.example"]).await, passed);
    for hosts in [
        &["admin.example"][..],
        &["ok.example", "ok.example"],
        &["ok.example", "admin.example"],
    ] {
        let (status, told) = asked(addr, request(), hosts).await;
        assert_eq!((status, &*told), (StatusCode::BAD_REQUEST, ""), "{hosts:?}");
    }
}

#[tokio::test]
async fn a_request_whose_host_is_in_its_header_alone_passes() {
    let (addr, _leaving) = engine(server(h2_hosts).await).await;
    let request = || {
        // The h2 crate says no authority for these.
        let request = Request::get("/").version(Version::HTTP_11);
        request.body(()).unwrap()
    };
    let passed = (StatusCode::OK, "web:8080".to_owned());
    assert_eq!(asked(addr, request(), &["web:8080"]).await, passed);
    let (status, told) = asked(addr, request(), &["web", "admin"]).await;
    assert_eq!((status, &*told), (StatusCode::BAD_REQUEST, ""));
}
