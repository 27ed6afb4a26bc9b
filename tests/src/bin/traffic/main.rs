//! Servers and clients that check what they see: the traffic of tests, demo and benches.
//!
//! Every server listens on all addresses of both families and prints `{"listening":PORT}` when it does. Every
//! client ends with one line of JSON on standard output, its report; whether the report is good is the caller's
//! judgement, and the exit code is 0 unless the program could not do its work at all.

mod churn;
mod data;
mod hold;
mod pace;
mod report;
mod serve;
mod single;
mod stream;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about, version)]
struct Cli {
    #[command(subcommand)]
    command: Traffic,
}

#[derive(Subcommand)]
enum Traffic {
    /// Serve connections until killed.
    Serve(serve::Serve),
    /// Open short connections to `serve identity`, each checked for its destination and its source.
    Churn(churn::Churn),
    /// Send and receive at once with `serve bulk`, with checksums.
    Bulk(stream::Bulk),
    /// Send, shut the sending half down, and expect all of it back.
    HalfClose(stream::HalfClose),
    /// Send until nothing is accepted any more.
    Flood(stream::Flood),
    /// Read until the connection ends and say how.
    Read(stream::Read),
    /// Send and end the connection in a given way.
    Send(stream::Send),
    /// Try to connect once and say what came of it.
    Connect(single::Connect),
    /// Time the call connect() alone.
    Dial(single::Dial),
    /// Time connections until the server's first bytes.
    Banner(single::Banner),
    /// Time round trips over one connection to `serve echo`.
    Ping(single::Ping),
    /// Hold connections to `serve echo`, then use and close each.
    Hold(hold::Hold),
    /// Send requests by HTTP/1.1 at a fixed rate, and time each from when it was due.
    Pace(pace::Pace),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Traffic::Serve(args) => args.run(),
        Traffic::Churn(args) => args.run(),
        Traffic::Bulk(args) => args.run(),
        Traffic::HalfClose(args) => args.run(),
        Traffic::Flood(args) => args.run(),
        Traffic::Read(args) => args.run(),
        Traffic::Send(args) => args.run(),
        Traffic::Connect(args) => args.run(),
        Traffic::Dial(args) => args.run(),
        Traffic::Banner(args) => args.run(),
        Traffic::Ping(args) => args.run(),
        Traffic::Hold(args) => args.run(),
        Traffic::Pace(args) => args.run(),
    }
}
