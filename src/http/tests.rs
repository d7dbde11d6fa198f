//! The endpoint over a real socket.

use super::*;
use crate::finding::json::tests::example;
use serde_json::Value;
use std::io::{Read, Write};

struct Server {
    address: SocketAddr,
    reads: Reads,
    runtime: tokio::runtime::Runtime,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    done: Option<tokio::task::JoinHandle<Result<(), HttpError>>>,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Server {
    fn start(token: Option<&str>) -> Server {
        let reads = Reads {
            view: Arc::new(View::new()),
            health: Arc::new(Health::new()),
            metrics: Arc::new(Metrics::new(host_clock::monotonic())),
            questions: Questions::default(),
            settings: Settings::default(),
            privileged: Privileged::none(),
            api_token: token.map(Secret::new),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(bind(([127, 0, 0, 1], 0).into())).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let done = runtime.spawn(serve(listener, reads.clone(), async { stopped.await.unwrap_or(()) }));
        Server { address, reads, runtime, stop: Some(stop), done: Some(done) }
    }

    fn send(&self, request_line: &str, headers: &str) -> Answer {
        let mut stream = std::net::TcpStream::connect(self.address).unwrap();
        write!(stream, "{request_line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        Answer { status: head.split(' ').nth(1).unwrap().parse().unwrap(), head: head.to_lowercase(), body: body.to_owned() }
    }

    fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), "")
    }
}

#[test]
fn health_follows_the_process() {
    let server = Server::start(None);
    assert_eq!((server.get("/livez").status, server.get("/readyz").status), (200, 503));
    assert!(server.get("/readyz").body.starts_with("starting"));
    server.reads.health.set_ready();
    assert_eq!(server.get("/readyz").status, 200);
    server.reads.health.set_dead("broken");
    assert_eq!((server.get("/livez").status, server.get("/readyz").body.as_str()), (503, "broken\n"));
}

#[test]
fn metrics_are_prometheus_text() {
    let server = Server::start(Some("token"));
    server.reads.metrics.messages_read("defender", 2);
    let answer = server.get("/metrics");
    assert_eq!(answer.status, 200, "open although a token is set");
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"));
    assert!(answer.body.contains("\nfirstseen_messages_total{topic=\"defender\"} 2\n"));
}

#[test]
fn findings_and_status_come_from_the_view() {
    let server = Server::start(None);
    server.reads.view.apply(&example());
    server.reads.view.set_arrival_clock("t", example().at);
    let found = server.get("/api/v1/findings?state=open&device=SRV-SQL-03.corp.example");
    assert_eq!((found.status, found.json()["total"].as_u64()), (200, Some(1)));
    assert_eq!(found.json()["findings"][0]["finding_id"], Value::from("ab".repeat(16)));
    assert_eq!(server.get("/api/v1/findings?ip=192.0.2.1").json()["total"], Value::from(0));
    let status = server.get("/api/v1/status").json();
    assert_eq!((&status["open_findings"], &status["ready"]), (&Value::from(1), &Value::from(false)));
    assert_eq!(status["arrival_clocks"]["t"], Value::from("2026-03-01T10:24:11.5Z"));
    let rules = "[[suppress]]\nname = \"ours\"\nport = 443\nreason = \"r\"\nowner = \"soc\"\nexpires = 2027-01-01T00:00:00Z";
    server.reads.view.set_rules(&crate::suppress::Rules::default().and_file(rules).unwrap());
    server.reads.view.rule_hit("ours", example().at);
    let expected = serde_json::json!([{
        "rule": "ours", "reason": "r", "owner": "soc", "expires": "2027-01-01T00:00:00Z", "changes": 1, "last_hit": "2026-03-01T10:24:11.5Z"
    }]);
    assert_eq!(server.get("/api/v1/status").json()["suppression"], expected);
}

#[test]
fn errors_are_problems() {
    let server = Server::start(None);
    for (path, status) in [
        ("/nothing", 404),
        ("/api/v1/nothing", 404),
        ("/api/v1/findings?limit=0", 400),
        ("/api/v1/findings?devise=x", 400),
        ("/api/v1/findings?state=closed", 400),
    ] {
        let answer = server.get(path);
        assert_eq!((answer.status, answer.json()["status"].as_u64()), (status, Some(u64::from(status))), "{path}");
        assert!(answer.head.contains("content-type: application/problem+json"), "{path}");
    }
    assert_eq!(server.send("POST /metrics", "content-length: 0\r\n").status, 405);
}

#[test]
fn the_api_wants_its_token() {
    let server = Server::start(Some("hunter2"));
    assert_eq!(server.get("/api/v1/status").status, 401);
    assert_eq!(server.send("GET /api/v1/findings", "authorization: Bearer hunter3\r\n").status, 401);
    assert_eq!(server.send("GET /api/v1/findings", "authorization: Bearer hunter2\r\n").status, 200);
    assert_eq!((server.get("/livez").status, server.get("/readyz").status), (200, 503));
}

#[test]
fn a_port_in_use_names_the_key() {
    let server = Server::start(None);
    let error = server.runtime.block_on(bind(server.address)).unwrap_err();
    assert_eq!(error.to_string(), format!("http.listen: {} is in use by another process; stop it or choose another port", server.address));
}

#[test]
fn a_client_that_says_nothing_does_not_hold_the_shutdown() {
    let mut server = Server::start(None);
    let mut idle = std::net::TcpStream::connect(server.address).unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\n").unwrap();
    assert_eq!(server.get("/livez").status, 200);
    let started = host_clock::monotonic();
    server.stop.take().unwrap().send(()).unwrap();
    server.runtime.block_on(server.done.take().unwrap()).unwrap().unwrap();
    assert!(started.elapsed() < DRAIN + Duration::from_secs(3));
}

#[test]
fn an_explanation_comes_from_the_task_or_says_why_not() {
    use crate::defender::{Body, DeviceInfo, Record};
    let server = Server::start(None);
    let mut detector = crate::detector::Detector::new(Settings::default());
    let now = example().at;
    let info = DeviceInfo { timestamp: now, device_id: "s1", device_name: "s1", os_platform: "Linux", device_type: "Server" };
    detector.record(&Record { arrival: now, tenant: "t", body: Body::Device(info) }, &mut Vec::new());
    // The task is not there.
    let answer = server.get("/api/v1/explain?device=s1&ip=192.0.2.1&port=443");
    assert_eq!(answer.status, 503);
    assert!(answer.json()["detail"].as_str().unwrap().contains("/readyz says why"), "{}", answer.body);
    // A task that looks at questions now and then.
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Acquire) {
                server.reads.questions.answer_one(&detector);
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        let said = server.get("/api/v1/explain?device=s1&ip=192.0.2.1&port=443").json();
        assert_eq!((&said["is_finding"], &said["obstacle"]), (&Value::from(false), &Value::from("never_seen")));
        assert_eq!((&said["server"]["holds"], &said["tenant"], &said["port"]), (&Value::from(true), &Value::from("t"), &Value::from(443)));
        assert_eq!(server.get("/api/v1/explain?tenant=u&device=s1&ip=192.0.2.1").status, 404);
        for (query, status) in
            [("tenant=&device=s1&ip=192.0.2.1", 404), ("tenant=t&ip=192.0.2.1", 400), ("tenant=t&device=s1&ip=192.0.2.1&port=x", 400)]
        {
            assert_eq!(server.get(&format!("/api/v1/explain?{query}")).status, status, "{query}");
        }
        done.store(true, std::sync::atomic::Ordering::Release);
    });
}
