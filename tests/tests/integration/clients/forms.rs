//! curl, nginx, and Python's clients and servers: each form of a request that they know.

use anyhow::{Context as _, Result, ensure};
use mesh_tests::Mesh;

use super::{at, each, echo, nginx, port, python, python_server};
use crate::http::curl;

#[test]
fn curl_and_nginx_understand_each_other() {
    each("clients-nginx", |mesh, to, _| {
        let _nginx = nginx(mesh, to)?;
        for (version, port, spoken) in [
            ("--http1.1", port::NGINX_1, "HTTP/1.1"),
            ("--http2-prior-knowledge", port::NGINX_2, "HTTP/2.0"),
        ] {
            let url = format!("http://{}", at(mesh, to, port));
            nginx_forms(mesh, &url, version, spoken)
                .with_context(|| format!("{version} to nginx at {to}"))?;
        }
        Ok(())
    });
}

fn nginx_forms(mesh: &Mesh, url: &str, version: &str, spoken: &str) -> Result<()> {
    let client = mesh.pod("client");
    let head = curl(client, &[version, "-I", url])?
        .ok()?
        .stdout
        .to_ascii_lowercase();
    ensure!(
        head.contains(" 200") && head.contains(&format!("x-version: {}", spoken.to_ascii_lowercase())),
        "{head}"
    );
    ensure!(head.contains("content-length: "), "HEAD: {head}");
    // A file of 20 MiB, with its length and then without; curl asks whether it may (100-continue).
    let file = mesh.dir().join("upload");
    if !file.exists() {
        let bytes: Vec<u8> = (0..20_u32 << 20).map(|at| (at / 251 % 251) as u8).collect();
        std::fs::write(&file, bytes)?;
    }
    let file = file.display().to_string();
    let stored = format!("{url}/files/stored");
    for form in [
        &["-T", &file][..],
        &["-T", &file, "-H", "Expect: 100-continue"][..],
        &["-T", &file, "-H", "Transfer-Encoding: chunked"][..],
    ] {
        // HTTP/2 has no chunks.
        if spoken == "HTTP/2.0" && form.len() == 4 && form[3].starts_with("Transfer") {
            continue;
        }
        let put = curl(
            client,
            &[&[version, "-w", "%{http_code}"], form, &[&stored]].concat(),
        )?;
        let put = put.ok()?.stdout;
        ensure!(put.ends_with("201") || put.ends_with("204"), "{form:?}: {put}");
        let script = format!("curl -sS {version} --noproxy '*' --max-time 60 {stored} | cmp - {file}");
        client
            .run("sh", &["-c", &script])?
            .ok()
            .with_context(|| format!("{form:?}"))?;
        let range = curl(
            client,
            &[
                version,
                "-w",
                "%{http_code}",
                "-r",
                "100-104",
                "-o",
                "/dev/null",
                &stored,
            ],
        )?;
        ensure!(range.stdout == "206", "{range}");
        let gone = curl(client, &[version, "-X", "DELETE", "-w", "%{http_code}", &stored])?.ok()?;
        ensure!(gone.stdout == "204", "{gone}");
    }
    let missing = curl(
        client,
        &[version, "-o", "/dev/null", "-w", "%{http_code}", &stored],
    )?
    .ok()?;
    ensure!(missing.stdout == "404", "{missing}");
    // One connection for all of them. curl 7.88 cannot do that with prior knowledge, whatever is between it and the server.
    if spoken == "HTTP/2.0" {
        return Ok(());
    }
    let urls = vec![url; 20];
    let used = curl(
        client,
        &[&[version, "-w", "%{num_connects}\n"], &urls[..]].concat(),
    )?;
    let connects: Vec<String> = used
        .ok()?
        .stdout
        .lines()
        .filter(|line| !line.starts_with("from"))
        .map(str::to_owned)
        .collect();
    ensure!(
        connects.len() == 20 && connects[0] == "1" && connects[1..].iter().all(|count| count == "0"),
        "connections: {connects:?}"
    );
    Ok(())
}

#[test]
fn curl_asks_before_it_sends_and_reads_while_it_sends() {
    each("clients-curl", |mesh, to, _| {
        let _echo = echo(mesh, to)?;
        let client = mesh.pod("client");
        let file = mesh.dir().join("body");
        std::fs::write(&file, vec![b'x'; 5 << 20])?;
        let file = format!("@{}", file.display());
        for (version, port) in [
            ("--http1.1", port::ECHO_1),
            ("--http2-prior-knowledge", port::ECHO_2),
        ] {
            let url = format!("http://{}/sink", at(mesh, to, port));
            let args = [
                version,
                "-v",
                "-H",
                "Expect: 100-continue",
                "--expect100-timeout",
                "15",
            ];
            let sent = curl(client, &[&args[..], &["--data-binary", &file, &url]].concat())?.ok()?;
            ensure!(sent.stdout == format!("{}\n", 5 << 20), "{sent}");
            // The server was asked, and not only waited for.
            ensure!(
                version != "--http1.1" || sent.stderr.contains("HTTP/1.1 100"),
                "{sent}"
            );
            let url = format!("http://{}/", at(mesh, to, port));
            let script = format!(
                "curl -sS {version} --noproxy '*' --max-time 60 --data-binary {file} {url} | cmp - {}",
                &file[1..]
            );
            client.run("sh", &["-c", &script])?.ok()?;
        }
        Ok(())
    });
}

#[test]
fn curl_reads_trailers_and_early_answers_of_a_python_server() {
    each("clients-trailers", |mesh, to, _| {
        let _server = python_server(mesh, to)?;
        let client = mesh.pod("client");
        let url = format!("http://{}", at(mesh, to, port::PYTHON));
        let chunked = format!("{url}/chunked/100000");
        let said = curl(client, &["-D", "-", "-o", "/dev/null", &chunked])?
            .ok()?
            .stdout;
        let (_, trailers) = said.split_once("\r\n\r\n").context("no end of the head")?;
        ensure!(trailers.to_ascii_lowercase().contains("x-digest: "), "{said}");
        let early = format!("{url}/early");
        let file = mesh.dir().join("body");
        std::fs::write(&file, vec![b'x'; 20 << 20])?;
        let file = format!("@{}", file.display());
        let args = [
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-H",
            "Expect:",
            "--data-binary",
            &file,
            &early,
        ];
        let answered = curl(client, &args)?;
        ensure!(answered.stdout == "413", "{answered}");
        Ok(())
    });
}

#[test]
fn python_asks_over_and_over_and_in_advance() {
    each("clients-python", |mesh, to, _| {
        let _server = python_server(mesh, to)?;
        python(
            mesh,
            to,
            port::PYTHON,
            r#"
import asyncio, hashlib, http.client
# The library's own client: connections kept, bodies of both framings, answers of both.
client = http.client.HTTPConnection(sys.argv[1], PORT, timeout=20)
for number in range(200):
    body = bytes([number]) * (number * 331)
    if number % 3 == 0:
        client.request("POST", "/%d" % number, body=body)
    elif number % 3 == 1:
        client.request("PUT", "/%d" % number, body=iter([body[:100], body[100:]]), encode_chunked=True,
                       headers={"Transfer-Encoding": "chunked"})
    else:
        client.request("GET", "/chunked/%d" % (number * 331))
        got = client.getresponse()
        assert got.status == 200 and len(got.read()) == number * 331, number
        continue
    got = client.getresponse()
    said = json.loads(got.read())
    assert said["target"] == "/%d" % number and said["bytes"] == len(body), (number, said)
    assert said["sha256"] == hashlib.sha256(body).hexdigest(), number
# Many connections, each with a hundred requests written before the first answer is read.
async def pipelined(name):
    reader, writer = await asyncio.open_connection(sys.argv[1], PORT)
    for number in range(100):
        body = b"x" * (number % 7)
        writer.write(b"POST /%d/%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (name, number, len(body), body))
    await writer.drain()
    for number in range(100):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("http/1.1 200"), head
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        said = json.loads(await reader.readexactly(length))
        assert said["target"] == "/%d/%d" % (name, number) and said["bytes"] == number % 7, said
    writer.close()
async def main():
    await asyncio.gather(*(pipelined(name) for name in range(20)))
asyncio.run(main())
"#,
        )?;
        Ok(())
    });
}
