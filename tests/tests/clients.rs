//! Clients as agents have them, with resolvers and TLS stacks of their own: each fetches what the contract names, and
//! nothing else.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{fs, process::Command};

use e2e::{Identity::Nobody, Run, World};
use serde_json::json;

const PYTHON: &str = "import sys, urllib.request\n\
    print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())";

const PYTHON_REQUESTS: &str = "import sys, requests\n\
    print(requests.get(sys.argv[1], timeout=10).text)";

/// What pip fetches packages with.
const PIP: &str = "import sys\n\
    from pip._vendor import requests\n\
    print(requests.get(sys.argv[1], timeout=10).text)";

/// One that has no library between itself and the bytes.
const PYTHON_SSL: &str = "import socket, ssl, sys\n\
    name = sys.argv[1].split('/')[2]\n\
    with socket.create_connection((name, 443), 10) as plain:\n\
    \x20   with ssl.create_default_context().wrap_socket(plain, server_hostname=name) as tls:\n\
    \x20       tls.sendall(b'GET / HTTP/1.1\\r\\nHost: %s\\r\\n\\r\\n' % name.encode())\n\
    \x20       print(tls.makefile().read().splitlines()[-1])";

const NODE: &str = "fetch(process.argv[1]).then(answer => answer.text()).then(console.log, \
    error => { console.error(error); process.exit(1) })";

const OPENSSL: &str = "name=${1#https://}; name=${name%/}; \
    printf 'GET / HTTP/1.1\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n' \"$name\" | \
    openssl s_client -quiet -ign_eof -verify_return_error -connect \"$name:443\" -servername \"$name\" 2>&1 | tail -n 1";

const GO: &str = r#"package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	answer, err := http.Get(os.Args[1])
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	body, _ := io.ReadAll(answer.Body)
	fmt.Print(string(body))
}
"#;

/// Each client: what it is called, and the words by which it fetches a URL.
fn clients(world: &World) -> Vec<(&'static str, Vec<String>)> {
    let authority = world.tls_ca().to_str().unwrap().to_owned();
    let trusting = |words: &[&str]| {
        let mut all = vec!["env".to_owned(), "HOME=/tmp".into()];
        for variable in
            ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO"]
        {
            all.push(format!("{variable}={authority}"));
        }
        all.extend(words.iter().map(|word| (*word).to_owned()));
        all
    };
    let go = go(world);
    vec![
        ("curl", trusting(&["curl", "--silent", "--show-error", "--max-time", "10"])),
        ("curl over IPv6", trusting(&["curl", "-6", "--silent", "--show-error", "--max-time", "10"])),
        ("openssl", trusting(&["timeout", "10", "sh", "-c", OPENSSL, "sh"])),
        ("python's urllib", trusting(&["/usr/bin/python3", "-c", PYTHON])),
        ("python's ssl", trusting(&["/usr/bin/python3", "-c", PYTHON_SSL])),
        ("python's requests", trusting(&["/usr/bin/python3", "-c", PYTHON_REQUESTS])),
        ("pip", trusting(&["/usr/bin/python3", "-c", PIP])),
        ("node", trusting(&["node", "-e", NODE])),
        // Go has a resolver of its own, unless it is told to ask the C library and was built with it.
        ("go", trusting(&[&go])),
        ("go by the C library", trusting(&["GODEBUG=netdns=cgo", &go])),
    ]
}

/// Builds the program in Go.
fn go(world: &World) -> String {
    let (source, program) = (world.directory.join("fetch.go"), world.directory.join("fetch"));
    fs::write(&source, GO).unwrap();
    let mut build = Command::new("go");
    build.args(["build", "-o"]).args([&program, &source]).env("GO111MODULE", "off").env("GOFLAGS", "");
    build.env("GOCACHE", world.directory.join("go-cache"));
    let output = build.output().unwrap_or_else(|error| panic!("go: {error}; `cargo xtask setup` brings it"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program.to_str().unwrap().to_owned()
}

/// Runs a client for a URL.
fn fetch(client: &[String], url: &str, run: impl Fn(&[&str]) -> Run) -> Run {
    let mut words: Vec<&str> = client.iter().map(String::as_str).collect();
    words.push(url);
    run(&words)
}

/// A repository at the TLS hosts, as plain files.
fn publish_repository(world: &World) {
    let script = "set -e; d=$1; git init -q $d/work; cd $d/work; \
        git -c user.name=t -c user.email=t@crm.example commit -q --allow-empty -m one; \
        mkdir -p $d/www; git clone -q --bare . $d/www/repository.git; cd $d/www/repository.git; git update-server-info";
    let output = Command::new("sh").args(["-c", script, "sh"]).arg(&world.directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn cloning(world: &World) -> Vec<String> {
    let authority = format!("GIT_SSL_CAINFO={}", world.tls_ca().display());
    ["env", "HOME=/tmp", "GIT_TERMINAL_PROMPT=0", &authority, "git", "ls-remote"].map(str::to_owned).to_vec()
}

#[test]
fn every_client_fetches_by_name_without_a_fence() {
    let mut world = World::named();
    for (name, client) in clients(&world) {
        world.far.clear();
        let run = fetch(&client, "https://crm.example/", |words| world.outside_runs(words));
        assert_eq!((run.status, run.out.as_str()), (0, "hello from crm.example"), "{name}: {}", run.err);
        assert!(world.far.asked("crm.example") > 0, "{name}");
        assert_eq!(world.far.sni_seen("crm.example"), 1, "{name}");
    }
    publish_repository(&world);
    let run = fetch(&cloning(&world), "https://git.example/repository.git", |words| world.outside_runs(words)).ok();
    assert!(run.out.contains("HEAD"), "{}", run.out);
}

#[test]
fn every_client_fetches_what_the_contract_names_and_nothing_else() {
    let mut world = World::named_up();
    let host = |name: &str| json!({ "host": name, "ports": [443], "tls": true });
    world.use_contract("a", json!({ "egress": [host("crm.example"), host("git.example")] }));
    for (name, client) in clients(&world) {
        let run = fetch(&client, "https://crm.example/", |words| world.agent_runs("a", Nobody, words));
        assert_eq!((run.status, run.out.as_str()), (0, "hello from crm.example"), "{name}: {}", run.err);
        world.far.clear();
        let run = fetch(&client, "https://evil.example/", |words| world.agent_runs("a", Nobody, words));
        assert!(!run.out.contains("hello"), "{name}: {}", run.out);
        assert_eq!((world.far.asked("evil.example"), world.far.sni_seen("evil.example")), (0, 0), "{name}");
    }
    publish_repository(&world);
    let run = |words: &[&str]| world.agent_runs("a", Nobody, words);
    assert!(fetch(&cloning(&world), "https://git.example/repository.git", run).ok().out.contains("HEAD"));
    assert_ne!(fetch(&cloning(&world), "https://evil.example/repository.git", run).status, 0);
}

#[test]
fn a_client_that_is_told_an_address_still_calls_by_name() {
    let mut world = World::named_up();
    let host = json!({ "host": "crm.example", "ports": [443], "tls": true });
    world.use_contract("a", json!({ "egress": [host] }));
    let authority = world.tls_ca().to_str().unwrap().to_owned();
    let curl = |world: &World, resolve: &str, url: &str| {
        let words = ["curl", "--silent", "--max-time", "5", "--cacert", &authority, "--resolve", resolve, url];
        world.agent_runs("a", Nobody, &words)
    };
    assert_ne!(world.agent("a", Nobody, &["names", "look-up", "crm.example"]).ok().out, "none");
    assert_eq!(curl(&world, "crm.example:443:203.0.113.40", "https://crm.example/").ok().out, "hello from crm.example");
    assert_ne!(curl(&world, "evil.example:443:203.0.113.40", "https://evil.example/").status, 0);
    world.far.clear();
    assert_ne!(curl(&world, "crm.example:443:203.0.113.41", "https://crm.example/").status, 0);
    assert_eq!(world.far.traffic(), 0);
}
