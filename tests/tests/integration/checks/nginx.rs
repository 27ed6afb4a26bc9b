//! nginx as a server of HTTP/2.

use anyhow::Result;
use mesh_tests::{Mesh, Process, wait_until};

use super::SOON;

/// Starts an nginx in a pod that says `ok` to everybody who speaks HTTP/2 to this port, and waits until it listens. `lines` are of
/// its configuration, and say where it logs.
pub(crate) fn serve(mesh: &Mesh, pod: &str, port: u16, lines: &str) -> Result<Process> {
    let dir = mesh.dir().join(format!("nginx-{pod}-{port}"));
    std::fs::create_dir_all(&dir)?;
    let at = dir.display();
    let conf = format!(
        "daemon off; master_process off; pid {at}/pid; error_log stderr;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ {lines} client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/f;\n\
         uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
         server {{ listen {port} http2; listen [::]:{port} http2;\n\
         location / {{ return 200 \"ok\\n\"; }} }} }}\n"
    );
    let file = dir.join("nginx.conf");
    std::fs::write(&file, conf)?;
    let pod = mesh.pod(pod);
    let nginx = pod.command("nginx").arg("-c").arg(&file).spawn()?;
    let filter = format!("sport = :{port}");
    wait_until(SOON, "nginx", || {
        pod.run("ss", &["-Hltn", &filter])
            .is_ok_and(|said| !said.stdout.is_empty())
    })?;
    Ok(nginx)
}
