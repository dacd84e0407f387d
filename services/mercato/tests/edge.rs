//! The rendered configuration, judged by the real Envoy.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

fn envoy() -> PathBuf {
    let path = std::env::var_os("MERCATO_ENVOY_BIN").expect("MERCATO_ENVOY_BIN must be set: run the test with `make test`");
    PathBuf::from(path)
}

/// A folder of this run alone; it goes with its value.
struct Folder(PathBuf);

impl Folder {
    /// A path where nothing is yet.
    fn named(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("edge-{name}-{}", std::process::id()));
        if folder.exists() {
            std::fs::remove_dir_all(&folder).expect("what a run that was killed left behind goes");
        }
        Self(folder)
    }

    fn config(&self) -> PathBuf {
        self.0.join("envoy.yaml")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // one that was never made, or cannot be removed, is no fault of what is tried here
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Renders with these settings into a folder of its own.
fn render(name: &str, settings: &[(&str, &str)]) -> Folder {
    let folder = Folder::named(name);
    std::fs::create_dir_all(&folder.0).expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mercato"));
    command.args(["edge", "--out"]).arg(&folder.0).env_clear().envs(settings.iter().copied());
    let output = command.output().expect("mercato runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

/// What Envoy says about a configuration: `None` when it likes it.
fn complaint(config: &Path) -> Option<String> {
    let output = Command::new(envoy()).args(["--mode", "validate", "-l", "error", "-c"]).arg(config).output().expect("envoy runs");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (!output.status.success()).then_some(text)
}

#[test]
fn envoy_accepts_all_roles_together() {
    assert_eq!(complaint(&render("together", &[]).config()), None);
}

#[test]
fn envoy_accepts_the_roles_apart() {
    let folder = render(
        "apart",
        &[
            ("MERCATO_EDGE_SPLIT", "1"),
            ("MERCATO_PEER_ORDERING", "http://ordering.internal:50051"),
            ("MERCATO_EDGE_STATS_ADDR", "0.0.0.0:9902"),
        ],
    );
    assert_eq!(complaint(&folder.config()), None);
    let text = std::fs::read_to_string(folder.config()).expect("the configuration");
    assert!(text.contains("ordering.internal"), "the roles' addresses come from MERCATO_PEER_<ROLE>");
}

#[test]
fn envoy_accepts_tracing_and_other_settings() {
    let settings = [
        ("MERCATO_EDGE_OTLP", "127.0.0.1:4317"),
        ("MERCATO_EDGE_TRACE_PERCENT", "0.5"),
        ("MERCATO_EDGE_TRUSTED_HOPS", "1"),
        ("MERCATO_CORS_ORIGINS", "https://shop[.]example[.]com,https://admin[.]example[.]com"),
        ("MERCATO_EDGE_ACCESS_LOG", "/dev/null"),
        ("MERCATO_EDGE_NODE", "edge \"7\""),
    ];
    let folder = render("tracing", &settings);
    assert_eq!(complaint(&folder.config()), None);
    assert!(std::fs::read_to_string(folder.config()).expect("the configuration").contains("envoy.tracers.opentelemetry"));
}

#[test]
fn nothing_of_the_template_is_left_open() {
    let text = std::fs::read_to_string(render("open", &[]).config()).expect("the configuration");
    let text: String = text.lines().filter(|line| !line.trim().starts_with('#')).collect();
    let open: Vec<&str> =
        text.split('@').filter(|word| word.len() > 2 && word.chars().all(|c| c.is_ascii_uppercase() || c == '_')).collect();
    assert!(open.is_empty(), "{open:?}");
}

/// The planted fault: without it, a judge who accepts everything would pass for one who looks.
#[test]
fn envoy_refuses_an_unknown_field() {
    let folder = render("broken", &[]);
    let config = folder.config();
    let text = std::fs::read_to_string(&config).expect("the configuration");
    let broken = text.replacen("stat_prefix: edge", "stat_prefix: edge\n          no_such_field: 1", 1);
    assert_ne!(text, broken);
    std::fs::write(&config, broken).expect("a broken configuration");
    let complaint = complaint(&config).expect("a complaint");
    assert!(complaint.contains("no_such_field"), "{complaint}");
}

#[test]
fn wrong_settings_are_refused_before_anything_is_written() {
    let folder = Folder::named("wrong");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mercato"));
    command.args(["edge", "--out"]).arg(&folder.0).env_clear().env("MERCATO_EDGE_ADDR", "nowhere");
    let output = command.output().expect("mercato runs");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("MERCATO_EDGE_ADDR"));
    assert!(!folder.0.exists());
}

/// Envoy as it runs with a configuration of [`render`]; it ends with its value.
struct Running {
    envoy: Child,
    door: u16,
    stats: u16,
    _folder: Folder,
}

impl Running {
    /// Starts it with these settings and a configuration that `change` has been at, and waits until it is ready.
    fn start(name: &str, settings: &[(&str, &str)], change: impl Fn(String) -> String) -> Self {
        let ports: Vec<TcpListener> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let [door, stats, admin, inside] = [0, 1, 2, 3].map(|n: usize| ports[n].local_addr().expect("an address"));
        drop(ports);
        let [at_door, at_stats, at_admin, at_inside] = [door, stats, admin, inside].map(|address| address.to_string());
        let mut all = vec![("MERCATO_EDGE_SPLIT", "1"), ("MERCATO_EDGE_ADDR", &at_door), ("MERCATO_EDGE_STATS_ADDR", &at_stats)];
        all.extend([
            ("MERCATO_EDGE_ADMIN_ADDR", at_admin.as_str()),
            ("MERCATO_GRPC_ADDR", &at_inside),
            ("MERCATO_EDGE_ACCESS_LOG", "/dev/null"),
        ]);
        all.extend_from_slice(settings);
        let folder = render(name, &all);
        let text = change(std::fs::read_to_string(folder.config()).expect("the configuration"));
        std::fs::write(folder.config(), text).expect("a changed configuration");
        let mut command = Command::new(envoy());
        command.args(["--disable-hot-restart", "--concurrency", "1", "-l", "off", "-c"]).arg(folder.config());
        let mut running = Self {
            envoy: command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("envoy runs"),
            door: door.port(),
            stats: stats.port(),
            _folder: folder,
        };
        running.until("envoy is ready", |running| status(running.stats, "/ready") == Some(200));
        running
    }

    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            let ended = self.envoy.try_wait().expect("its state");
            assert!(ended.is_none() && began.elapsed() < Duration::from_secs(120), "not so: {what}; envoy: {ended:?}");
            #[expect(clippy::disallowed_methods, reason = "the test's own thread waits between looks, no runtime's")]
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.envoy.kill().and_then(|()| self.envoy.wait()).expect("envoy ends");
    }
}

/// The status of a GET, or nothing when nobody answers.
fn status(port: u16, path: &str) -> Option<u16> {
    let mut connection = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(5)).ok()?;
    connection.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(connection, "GET {path} HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = [0; 12];
    connection.read_exact(&mut answer).ok()?;
    std::str::from_utf8(&answer).ok()?.strip_prefix("HTTP/1.1 ")?.parse().ok()
}

/// Probes and metrics are answered, ten times over.
fn still_tells(running: &Running) {
    for path in ["/ready", "/stats/prometheus"].repeat(10) {
        assert_eq!(status(running.stats, path), Some(200), "{path}");
    }
}

/// Memory as a file tells it, so that it may run short when Envoy is up.
#[test]
fn an_envoy_short_of_memory_refuses_clients_and_stays_ready() {
    let told = Folder::named("pressure");
    std::fs::create_dir_all(&told.0).expect("a folder");
    let pressure = |share: &str| {
        std::fs::write(told.0.join("new"), share).expect("a file");
        std::fs::rename(told.0.join("new"), told.0.join("pressure")).expect("at once in its place");
    };
    let by_file = |text: String| {
        let start = text.find("max_heap_size_bytes: ").expect("the heap's limit");
        let end = start + text[start..].find('\n').expect("the end of the line");
        let text = format!("{}filename: {}{}", &text[..start], told.0.join("pressure").display(), &text[end..]);
        text.replace("fixed_heap.v3.FixedHeapConfig", "injected_resource.v3.InjectedResourceConfig")
    };
    pressure("0.1");
    let mut running = Running::start("memory", &[], by_file);
    running.until("the door is open", |running| status(running.door, "/no-such-page") == Some(404));
    pressure("0.96");
    running.until("clients are refused", |running| status(running.door, "/no-such-page") == Some(503));
    still_tells(&running);
    pressure("0.99");
    running.until("nobody is let in", |running| status(running.door, "/no-such-page").is_none());
    still_tells(&running);
    pressure("0.1");
    running.until("the door is open again", |running| status(running.door, "/no-such-page") == Some(404));
}

#[test]
fn an_envoy_with_all_its_connections_taken_stays_ready() {
    let mut running = Running::start("full", &[("MERCATO_EDGE_MAX_CONNECTIONS", "2")], |text| text);
    running.until("the door is open", |running| status(running.door, "/no-such-page") == Some(404));
    let held: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(("127.0.0.1", running.door)).expect("a connection")).collect();
    running.until("a third one is turned away", |running| status(running.door, "/no-such-page").is_none());
    still_tells(&running);
    drop(held);
    running.until("the door is open again", |running| status(running.door, "/no-such-page") == Some(404));
}
