//! The rendered configuration, judged by the real Envoy.

use std::{
    path::{Path, PathBuf},
    process::Command,
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
