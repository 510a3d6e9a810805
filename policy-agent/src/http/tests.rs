use super::*;

use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::time::Instant;

use crate::health::{Heartbeat, Readiness};
use crate::metrics::{Metrics, Snapshot, scraper};

fn anywhere() -> Listen {
    Listen::At((Ipv4Addr::LOCALHOST, 0).into())
}

fn healthy(readiness: Readiness) -> Server {
    let routes = health(Heartbeat::default(), readiness);
    Server::start(vec![Service { option: "health-address", listen: anywhere(), routes }]).unwrap()
}

/// Sends bytes, and reads until the server hangs up.
fn send(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(2 * CONNECTION_TIME)).unwrap();
    // It may hang up before it has read everything.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(address: SocketAddr, path: &str, headers: &str) -> (u16, String) {
    let answer = send(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes());
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{answer:?}")), answer)
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[test]
fn health_in_the_api_servers_words() {
    let readiness = Readiness::default();
    let pods = readiness.condition("watch-pods", "not listed yet");
    let server = healthy(readiness);
    let at = server.addresses()[0];
    let (status, answer) = get(at, "/livez", "");
    assert_eq!((status, body(&answer)), (200, "ok"));
    let (status, answer) = get(at, "/livez?verbose", "");
    assert_eq!((status, body(&answer)), (200, "[+]loop ok\nlivez check passed\n"));
    let (status, answer) = get(at, "/readyz", "");
    assert_eq!(status, 503);
    assert_eq!(body(&answer), "[-]watch-pods failed: not listed yet\nreadyz check failed\n");
    pods.set(Ok(()));
    let (status, answer) = get(at, "/readyz", "");
    assert_eq!((status, body(&answer)), (200, "ok"));
    let (status, answer) = get(at, "/readyz?verbose=1", "");
    assert_eq!((status, body(&answer)), (200, "[+]watch-pods ok\nreadyz check passed\n"));
}

#[test]
fn only_what_is_there_and_only_to_be_read() {
    let server = healthy(Readiness::default());
    let at = server.addresses()[0];
    for path in ["/", "/metrics", "/livez/", "/debug/pprof", "/../livez", "*"] {
        assert_eq!(get(at, path, "").0, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
        let answer = send(at, format!("{method} /livez HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 405"), "{method}: {answer}");
    }
    let head = send(at, b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && body(&head).is_empty(), "{head}");
    assert!(head.to_lowercase().contains("connection: close"), "one request a connection: {head}");
}

#[test]
fn garbage_and_giants_are_refused() {
    let server = healthy(Readiness::default());
    let at = server.addresses()[0];
    let long = format!("GET /livez HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
    let many = format!("GET /livez HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(200));
    for request in [long.as_bytes(), many.as_bytes(), b"\x16\x03\x01\x02\x00\x01", b"hello\r\n\r\n"] {
        let answer = send(at, request);
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    assert_eq!(get(at, "/livez", "").0, 200, "and others are served as before");
}

#[test]
fn who_is_slow_is_cut_off_and_who_comes_meanwhile_is_served() {
    let server = healthy(Readiness::default());
    let at = server.addresses()[0];
    let began = Instant::now();
    // All places but one, by clients that begin and never end.
    let mut slow: Vec<_> = (1..CONNECTIONS)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(at).unwrap();
            stream.write_all(b"GET /livez HTTP/1.1\r\nHo").unwrap();
            stream
        })
        .collect();
    assert_eq!(get(at, "/livez", "").0, 200);
    assert!(began.elapsed() < HEADER_TIME);
    let mut answer = Vec::new();
    slow[0].set_read_timeout(Some(2 * CONNECTION_TIME)).unwrap();
    let _ = slow[0].read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains(" 200 "));
    assert!(began.elapsed() >= HEADER_TIME / 2 && began.elapsed() < CONNECTION_TIME, "{:?}", began.elapsed());
    // More than there are places: the last ones wait for those that are cut off.
    let mut more: Vec<_> = (0..CONNECTIONS + 8).map(|_| std::net::TcpStream::connect(at).unwrap()).collect();
    assert_eq!(get(at, "/livez", "").0, 200);
    more.clear();
}

#[test]
fn metrics_in_both_formats() {
    let (scraper, mut questions) = scraper(Metrics::new());
    let answering = std::thread::spawn(move || {
        while let Some(question) = questions.blocking_recv() {
            question.answer(Snapshot { revision: 5, ..Snapshot::default() });
        }
    });
    let service = Service { option: "metrics-address", listen: anywhere(), routes: exposition(scraper) };
    let server = Server::start(vec![service]).unwrap();
    let at = server.addresses()[0];
    let (status, answer) = get(at, "/metrics", "");
    assert_eq!(status, 200);
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{answer}");
    assert!(answer.contains("\nsluice_policy_revision 5\n") && !answer.contains("# EOF"), "{answer}");
    let (_, answer) = get(at, "/metrics", "Accept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n");
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(answer.ends_with("# EOF\n"), "{answer}");
    assert_eq!(get(at, "/livez", "").0, 404, "health has an address of its own");
    drop(server);
    answering.join().unwrap();
}

#[test]
fn an_address_that_cannot_be_had_is_an_error_that_names_its_option() {
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let service = |listen| Service {
        option: "health-address",
        listen,
        routes: health(Heartbeat::default(), Readiness::default()),
    };
    let error = Server::start(vec![service(Listen::At(address))]).unwrap_err().to_string();
    assert!(error.starts_with(&format!("health-address {address}: ")), "{error}");
    let error =
        Server::start(vec![service(Listen::At(([192, 0, 2, 1], 80).into()))]).unwrap_err().to_string();
    assert!(error.starts_with("health-address 192.0.2.1:80: "), "{error}");
    let off = Server::start(vec![service(Listen::Off)]).unwrap();
    assert!(off.addresses().is_empty());
    let everywhere = Server::start(vec![service(Listen::Everywhere(0))]).unwrap();
    let port = everywhere.addresses()[0].port();
    assert_eq!(get((Ipv4Addr::LOCALHOST, port).into(), "/livez", "").0, 200);
}

#[test]
fn a_server_that_is_dropped_is_gone() {
    let server = healthy(Readiness::default());
    let at = server.addresses()[0];
    let _open = std::net::TcpStream::connect(at).unwrap();
    drop(server);
    assert!(std::net::TcpStream::connect(at).is_err());
}
