//! Many requests by tools that count what fails: over kept connections, in advance of answers, and over new ones each.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::{Mesh, traffic};

use super::{at, nginx, port, secured};

const LONG: Duration = Duration::from_secs(240);

#[test]
fn of_two_hundred_thousand_requests_none_fails() {
    secured("clients-load", |mesh, _agents| {
        let mut good = 0;
        for to in super::SERVERS {
            let _nginx = nginx(mesh, to)?;
            let listen = port::GRPC.to_string();
            let _calls = traffic::serve_web(mesh.pod(to), &["grpc-serve", "--port", &listen], port::GRPC)?;
            good += some(mesh, to).with_context(|| format!("to {to}"))?;
        }
        println!("{good} requests, none failed");
        ensure!(good >= 200_000, "only {good} requests");
        Ok(())
    });
}

fn some(mesh: &Mesh, to: &str) -> Result<u64> {
    let first = format!("http://{}/", at(mesh, to, port::NGINX_1));
    let second = format!("http://{}/", at(mesh, to, port::NGINX_2));
    let mut good = 0;
    // Kept connections; with `-m` that many requests are written before the first answer.
    good += h2load(mesh, 25_000, &["--h1", "-c", "32", &first])?;
    good += h2load(mesh, 25_000, &["--h1", "-c", "16", "-m", "8", &first])?;
    good += h2load(mesh, 30_000, &["-c", "8", "-m", "32", &second])?;
    good += wrk(mesh, &first, &[])?;
    // A connection each.
    good += h2load(mesh, 1_000, &["-c", "1000", "--h1", &first])?;
    good += wrk(mesh, &first, &["-H", "Connection: close"])?;
    let at = at(mesh, to, port::GRPC);
    traffic::web(mesh.pod("client"), &["grpc", "--to", &at, "--load", "5000"])?;
    good += 5_000;
    Ok(good)
}

/// Requests that h2load sent; an error when one of them was not answered with 2xx.
fn h2load(mesh: &Mesh, count: u64, args: &[&str]) -> Result<u64> {
    let text = count.to_string();
    let command = mesh.pod("client").command("h2load").args(["-n", &text]);
    let said = command.args(args).deadline(LONG).run()?.ok()?.stdout;
    ensure!(
        said.contains(&format!("{count} succeeded, 0 failed, 0 errored, 0 timeout"))
            && said.contains(&format!("{count} 2xx, 0 3xx, 0 4xx, 0 5xx")),
        "h2load {args:?}: {said}"
    );
    let rate = said.lines().find(|line| line.starts_with("finished"));
    println!("h2load {args:?}: {}", rate.unwrap_or_default());
    Ok(count)
}

/// Requests that wrk sent in a few seconds; an error when one of them was not answered with 2xx.
fn wrk(mesh: &Mesh, url: &str, args: &[&str]) -> Result<u64> {
    let command = mesh.pod("client").command("wrk");
    let command = command.args(["-t", "1", "-c", "32", "-d", "4s", "--timeout", "30s"]);
    let said = command.args(args).arg(url).deadline(LONG).run()?.ok()?.stdout;
    ensure!(
        !said.contains("Socket errors") && !said.contains("Non-2xx"),
        "wrk {args:?}: {said}"
    );
    let line = said
        .lines()
        .find(|line| line.contains(" requests in "))
        .with_context(|| said.clone())?;
    println!("wrk {args:?}: {line}");
    let count = line
        .split_whitespace()
        .next()
        .and_then(|count| count.parse().ok());
    count.with_context(|| said.clone())
}
