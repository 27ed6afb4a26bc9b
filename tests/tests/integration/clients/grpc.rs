//! gRPC and WebSockets by tonic and tungstenite.

use super::{at, each, port};
use mesh_tests::traffic;

#[test]
fn calls_of_every_form_pass() {
    each("clients-grpc", |mesh, to, _| {
        let listen = port::GRPC.to_string();
        let _server = traffic::serve_web(mesh.pod(to), &["grpc-serve", "--port", &listen], port::GRPC)?;
        super::reached(mesh, to, port::GRPC)?;
        let at = at(mesh, to, port::GRPC);
        traffic::web(mesh.pod("client"), &["grpc", "--to", &at])?;
        Ok(())
    });
}

#[test]
fn web_sockets_talk() {
    each("clients-ws", |mesh, to, _| {
        let listen = port::WEBSOCKET.to_string();
        let args = ["websocket-serve", "--port", &listen];
        let _server = traffic::serve_web(mesh.pod(to), &args, port::WEBSOCKET)?;
        // It takes no ordinary request, by which one could see whether it can be reached.
        let _other = super::python_server(mesh, to)?;
        let at = at(mesh, to, port::WEBSOCKET);
        traffic::web(mesh.pod("client"), &["websocket", "--to", &at])?;
        Ok(())
    });
}
