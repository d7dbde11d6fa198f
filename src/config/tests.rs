//! What is accepted, what is refused, and with which words.

use super::*;
use crate::time::Span;
use proptest::strategy::Strategy;
use std::io::Write as _;

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Config::load(Some(file.path()), environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
}

/// The lines that a refused configuration prints.
fn refused(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    match load(text, environment) {
        Ok(config) => panic!("accepted: {config:#?}"),
        Err(e) => e.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn no_file_and_an_empty_file_give_the_defaults() {
    assert_eq!(Config::load(None, []).unwrap(), Config::default());
    assert_eq!(load("", &[("PATH", "/bin"), ("FIRSTSEEN_SERVICE_HOST", "10.0.0.1")]).unwrap(), Config::default());
    assert_eq!(load("\u{feff}", &[]).unwrap(), Config::default());
}

#[test]
fn the_example_file_is_the_defaults_and_names_every_key() {
    let example = include_str!("../../docs/firstseen.toml");
    assert_eq!(load(example, &[]).unwrap(), Config::default());
    for key in keys::KEYS {
        let name = key.path.rsplit('.').next().unwrap();
        let named = example.lines().any(|l| l.trim_start_matches("# ").split([' ', ']']).next() == Some(name))
            || example.contains(&format!("[{}]", key.path));
        assert!(named, "docs/firstseen.toml lacks {}", key.path);
    }
}

#[test]
fn the_defaults_of_the_detector_are_the_querys_numbers() {
    assert_eq!(Config::default().detector_settings(), detector::Settings::default());
}

#[test]
fn every_key_reaches_its_place() {
    let config = load(
        r#"
        [kafka]
        bootstrap_servers = "a:1,b:2"
        preset = "event-hubs"
        [kafka.properties]
        "security.protocol" = "SASL_PLAINTEXT"
        socket.timeout.ms = 5000
        [input]
        topics = ["one", "two"]
        group_id = "g"
        start = "latest"
        idle_advance = false
        idle_delay = "3m"
        max_clock_skew = "2h"
        handover_overlap = "20m"
        [output]
        findings_topic = "f"
        dead_letter_topic = "d"
        grouped_topic = "g"
        create_topics = false
        suppressed = "topic"
        suppressed_topic = "s"
        update_interval = "0s"
        settle_delay = "1m"
        [state]
        dir = "/var/lib/firstseen"
        snapshot_interval = "5m"
        [http]
        listen = "[::1]:80"
        [limits]
        urls_per_destination = 7
        tracked_connections = 5000
        state_memory = "3GiB"
        connections_per_device = 2000
        [query]
        lookback = "10d"
        new_within = "12h"
        prevalence_window = "4d"
        prevalence_below = 3
        vendor_servers_below = 4
        group_by_device = true
        [detection]
        report_late = false
        warm_up = "13d"
        track_workstations = false
        privileged_servers = ["dc*"]
        "#,
        &[],
    )
    .unwrap();
    assert_eq!(config.kafka.bootstrap_servers, "a:1,b:2");
    assert_eq!(config.kafka.preset, Preset::EventHubs);
    let properties = config.kafka.exposed_properties();
    assert_eq!(properties["security.protocol"], "SASL_PLAINTEXT");
    assert_eq!(properties["socket.timeout.ms"], "5000");
    let input = Input {
        topics: vec!["one".into(), "two".into()],
        group_id: "g".into(),
        start: Start::Latest,
        on_gap: OnGap::Continue,
        idle_advance: false,
        idle_delay: Span::minutes(3),
        max_clock_skew: Span::hours(2),
        handover_overlap: Span::minutes(20),
    };
    assert_eq!(config.input, input);
    let output = Output {
        findings_topic: "f".into(),
        dead_letter_topic: "d".into(),
        grouped_topic: "g".into(),
        create_topics: false,
        suppressed: Fate::Topic("s".into()),
        update_interval: Span::ZERO,
        settle_delay: Span::minutes(1),
    };
    assert_eq!(config.output, output);
    assert_eq!(config.state, State { dir: "/var/lib/firstseen".into(), snapshot_interval: Span::minutes(5) });
    assert_eq!(config.http.listen, "[::1]:80".parse().unwrap());
    let settings = detector::Settings {
        lookback: Span::days(10),
        new_within: Span::hours(12),
        prevalence_window: Span::days(4),
        prevalence_below: 3,
        vendor_servers_below: 4,
        max_clock_skew: Span::hours(2),
        update_interval: Span::ZERO,
        urls_per_destination: 7,
        report_late: false,
        warm_up: Span::days(13),
        track_workstations: false,
        limits: detector::Limits { tracked_connections: Some(5000), state_memory: Some(3 << 30), connections_per_device: 2000 },
    };
    assert_eq!(config.detector_settings(), settings);
    assert_eq!(config.detection.privileged_servers, ["dc*"]);
    assert_eq!((config.grouped_topic(), Config::default().grouped_topic()), (Some("g"), None));
}

#[test]
fn the_environment_wins() {
    let config = load(
        "[kafka]\nbootstrap_servers = \"file:1\"\n[kafka.properties]\n\"security.protocol\" = \"PLAINTEXT\"",
        &[
            ("FIRSTSEEN_KAFKA__BOOTSTRAP_SERVERS", "env:2"),
            ("FIRSTSEEN_KAFKA__PROPERTIES__SECURITY_PROTOCOL", "SASL_SSL"),
            ("FIRSTSEEN_KAFKA__PROPERTIES__SASL_PASSWORD", "hunter2"),
            ("FIRSTSEEN_KAFKA__PROPERTIES__LOG_LEVEL", "7"),
            ("FIRSTSEEN_INPUT__TOPICS", "one, two"),
            ("FIRSTSEEN_INPUT__IDLE_ADVANCE", "false"),
            ("FIRSTSEEN_QUERY__PREVALENCE_BELOW", "9"),
            ("FIRSTSEEN_STATE__SNAPSHOT_INTERVAL", "2m"),
            ("FIRSTSEEN_HTTP__LISTEN", "0.0.0.0:9464"),
            ("FIRSTSEEN_HTTP__API_TOKEN", "hunter3"),
        ],
    )
    .unwrap();
    assert_eq!(config.kafka.bootstrap_servers, "env:2");
    assert_eq!(config.kafka.properties["security.protocol"].expose(), "SASL_SSL");
    assert_eq!(config.kafka.properties["sasl.password"].expose(), "hunter2");
    assert_eq!(config.kafka.properties["log_level"].expose(), "7");
    assert_eq!(config.input.topics, ["one", "two"]);
    assert!(!config.input.idle_advance);
    assert_eq!(config.query.prevalence_below, 9);
    assert_eq!(config.state.snapshot_interval, Span::minutes(2));
    assert_eq!(config.http.api_token.as_ref().map(Secret::expose), Some("hunter3"));
    assert!(!format!("{config:?} {config:#?}").contains("hunter"));
}

#[test]
fn secrets_come_from_files_and_variables_and_are_never_printed() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "hunter2\r").unwrap();
    let path = file.path().to_str().unwrap();
    let text = format!("[kafka.properties]\n\"sasl.password\" = {{ file = {path:?} }}\nssl.key.password = {{ env = \"KEY\" }}");
    let config = load(&text, &[("KEY", "hunter3")]).unwrap();
    assert_eq!(config.kafka.properties["sasl.password"].expose(), "hunter2");
    assert_eq!(config.kafka.properties["ssl.key.password"].expose(), "hunter3");
    assert!(!format!("{config:?}").contains("hunter"));
}

#[test]
fn a_secret_in_the_wrong_place_is_refused_without_showing_it() {
    let lines = refused(
        "[kafka.properties]\n\"sasl.password\" = \"hunter2\"\n\"ssl.key.password\" = { env = \"NOT_SET\" }\n[http]\napi_token = \"hunter3\"\napi_tokem = \"hunter4\"",
        &[("FIRSTSEEN_KAFKA__PROPERTIES__GROUP_ID", "hunter5")],
    );
    assert!(!lines.join("\n").contains("hunter"), "{lines:#?}");
    let expected = [
        "kafka.properties.sasl.password: given a text in the file, expected a secret: { file = \"/path\" } or { env = \"NAME\" }",
        "kafka.properties.ssl.key.password: environment variable NOT_SET is not set, or is not UTF-8; set it to the secret",
        "kafka.properties.group.id (from FIRSTSEEN_KAFKA__PROPERTIES__GROUP_ID): this property is not free: set input.group_id instead",
        "http.api_token: given a text, expected a secret: { file = \"/path\" } or { env = \"NAME\" }",
        "http.api_tokem: unknown key; the nearest known one is http.api_token",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn text_that_is_not_toml_is_placed_but_not_shown() {
    let lines = refused("[http]\napi_token = hunter2", &[]);
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("not TOML: line 2, column 13: ") && !lines[0].contains("hunter2"), "{lines:?}");
    let missing = Config::load(Some(Path::new("/no/such/file.toml")), []).unwrap_err().to_string();
    assert!(missing.starts_with("--config /no/such/file.toml: can't read it: "), "{missing}");
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let lines = refused(
        "[kafka]\nbootstrap_servers = 5\n[input]\nstart = \"middle\"\nidle_delay = 600\ntopic = [\"x\"]\n[kafak]\npreset = \"kafka\"",
        &[("FIRSTSEEN_QUERY__PREVALENCE_BELOW", "many"), ("FIRSTSEEN_OUTPUT_FINDINGS_TOPIC", "x"), ("FIRSTSEEN_STATE__DIRR", "y")],
    );
    let expected = [
        "output.findings_topic (from FIRSTSEEN_OUTPUT_FINDINGS_TOPIC): write two underscores between the levels: FIRSTSEEN_OUTPUT__FINDINGS_TOPIC",
        "kafka.bootstrap_servers: given 5 (a whole number), expected text in quotes, not empty",
        "input.start: given \"middle\", expected \"earliest\" or \"latest\"",
        "input.idle_delay: given 600 (a whole number), expected a length of time such as \"14d\", \"10m\", \"1s\" or \"250ms\"",
        "query.prevalence_below (from FIRSTSEEN_QUERY__PREVALENCE_BELOW): given \"many\", expected a whole number from 1 to 10000",
        "input.topic: unknown key; the nearest known one is input.topics",
        "kafak: unknown key; the nearest known one is kafka",
        "state.dirr (from FIRSTSEEN_STATE__DIRR): unknown key; the nearest known one is state.dir (FIRSTSEEN_STATE__DIR)",
    ];
    assert_eq!(lines, expected);
}

/// One bad value each: a fragment of TOML, and the one line that it must give.
#[test]
fn every_wrong_value_is_refused_with_what_was_expected() {
    for (text, line) in [
        ("kafka = 1", "kafka: given 1 (a whole number), expected a section: [kafka]"),
        (
            "[kafka]\nbootstrap_servers = \"broker\"",
            "kafka.bootstrap_servers: given \"broker\", expected host:port, several separated by commas",
        ),
        (
            "[kafka]\nproperties = 1",
            "kafka.properties: given 1 (a whole number), expected a table of librdkafka properties, each a text, number, boolean or secret ({ file = \"/path\" } or { env = \"NAME\" })",
        ),
        ("[kafka.properties]\ngroup.id = \"x\"", "kafka.properties.group.id: this property is not free: set input.group_id instead"),
        ("[kafka.properties]\nx = [1]", "kafka.properties.x: given a list, expected a text, number, boolean or secret"),
        ("[input]\ntopics = []", "input.topics: given an empty list, expected at least one topic"),
        ("[input]\ntopics = \"x\"", "input.topics: given \"x\", expected a list of texts such as [\"one\", \"two\"]"),
        (
            "[input]\ntopics = [\"^x\"]",
            "input.topics: given \"^x\", expected a topic's name: at most 249 of a-z, A-Z, 0-9, '.', '_' and '-'",
        ),
        ("[input]\ntopics = [\"x\", \"x\"]", "input.topics: given \"x\" twice, expected each topic once"),
        ("[input]\ngroup_id = \" \"", "input.group_id: given \" \", expected text in quotes, not empty"),
        (
            "[output]\nfindings_topic = \"defender\"",
            "output.findings_topic: given \"defender\", which is one of input.topics; expected a topic of its own",
        ),
        (
            "[output]\ndead_letter_topic = \"firstseen.findings\"",
            "output.dead_letter_topic: given the same topic as output.findings_topic, expected a topic of its own",
        ),
        ("[output]\nformat = \"ocsf\"", "output.format: given \"ocsf\", which is not available yet; expected \"firstseen\""),
        ("[output]\ncreate_topics = \"yes\"", "output.create_topics: given \"yes\", expected true or false"),
        (
            "[kafka]\npreset = \"event-hubs\"\n[output]\ncreate_topics = true",
            "output.create_topics: given true, but Event Hubs creates no topics over Kafka; expected false: create the event hubs in Azure",
        ),
        ("[state]\nmode = \"cluster\"", "state.mode: given \"cluster\", which is not available yet; expected \"standalone\""),
        ("[state]\nsnapshot_interval = \"999ms\"", "state.snapshot_interval: given \"999ms\", expected at least \"1s\""),
        (
            "[http]\nlisten = \"localhost\"",
            "http.listen: given \"localhost\", expected an address and a port such as \"127.0.0.1:9464\" or \"[::]:9464\"",
        ),
        (
            "[http]\nlisten = \"0.0.0.0:9464\"",
            "http.api_token: http.listen is 0.0.0.0:9464, which is not a loopback address; expected a token: { file = \"/path\" } or { env = \"NAME\" }",
        ),
        (
            "[limits]\nurls_per_destination = 0",
            "limits.urls_per_destination: given 0 (a whole number), expected a whole number from 1 to 100000",
        ),
        ("[query]\nnew_within = \"14d\"", "query.new_within: given \"14d\", expected less than query.lookback (\"14d\")"),
        ("[query]\nnew_within = \"0d\"", "query.new_within: given no time at all, expected more than \"0s\""),
        ("[query]\nprevalence_window = \"15d\"", "query.prevalence_window: given \"15d\", expected at most query.lookback (\"14d\")"),
        ("[query]\nprevalence_below = 0", "query.prevalence_below: given 0 (a whole number), expected a whole number from 1 to 10000"),
        (
            "[query]\nvendor_servers_below = 1.5",
            "query.vendor_servers_below: given 1.5 (a number with a fraction), expected a whole number from 1 to 10000",
        ),
        (
            "[output]\ngrouped_topic = \"firstseen.findings\"",
            "output.grouped_topic: given the same topic as output.findings_topic, expected a topic of its own",
        ),
        (
            "[detection]\nwarm_up = \"-1d\"",
            "detection.warm_up: given \"-1d\", expected a length of time such as \"14d\", \"10m\", \"1s\" or \"250ms\"",
        ),
        (
            "[detection]\nprivileged_servers = [\"dc[\"]",
            "detection.privileged_servers: \"dc[\" is not a pattern, expected names in which * and ? may stand",
        ),
        (
            "[[suppress]]\ndomain_suffix = \"com\"\nreason = \"r\"\nowner = \"o\"",
            "suppress[1].domain_suffix: given \"com\", which is a public suffix: anybody can have a name under it; expected a registered domain such as \"contoso.com\"",
        ),
        ("suppress = 7", "suppress: expected [[suppress]] tables"),
        (
            "[output]\nsuppressed = \"topic\"\nsuppressed_topic = \"firstseen.findings\"",
            "output.suppressed_topic: given the same topic as output.findings_topic, expected a topic of its own",
        ),
        (
            "[output]\nsuppressed = \"topic\"\nsuppressed_topic = \"a b\"",
            "output.suppressed_topic: given \"a b\", expected a topic's name: at most 249 of a-z, A-Z, 0-9, '.', '_' and '-'",
        ),
        ("[output]\nsuppressed = \"hide\"", "output.suppressed: given \"hide\", expected \"mark\" or \"drop\" or \"topic\""),
        ("[detection]\nsuppress_file = 1", "detection.suppress_file: given 1 (a whole number), expected text in quotes, not empty"),
        (
            "[detection]\nsuppress_file = \"/no/such/file\"",
            "detection.suppress_file: can't read /no/such/file: No such file or directory (os error 2)",
        ),
        ("\"http.listen\" = \"x\"", "\"http.listen\": unknown key; the nearest known one is http.listen"),
        ("[kafka]\n\"properties.x\" = 1", "kafka.\"properties.x\": unknown key; the nearest known one is kafka.properties"),
        ("surprise = 1", "surprise: unknown key; docs/configuration.md lists the known ones"),
    ] {
        assert_eq!(refused(text, &[]), [line], "{text}");
    }
}

/// What the container image, the compose file and the chart set must be what the program knows.
#[test]
fn deployments_set_only_known_keys() {
    let files = [
        include_str!("../../docker-compose.yml"),
        include_str!("../../Dockerfile"),
        include_str!("../../helm/firstseen/values.yaml"),
        include_str!("../../helm/firstseen/templates/statefulset.yaml"),
    ];
    let names: std::collections::BTreeSet<&str> = files
        .iter()
        .flat_map(|f| f.split(|c: char| !(c.is_ascii_uppercase() || c == '_')))
        .filter(|w| w.starts_with("FIRSTSEEN_") && w.contains("__"))
        .collect();
    assert!(names.len() >= 5, "{names:?}");
    for name in names {
        let known = name.starts_with("FIRSTSEEN_KAFKA__PROPERTIES__") || keys::KEYS.iter().any(|k| keys::variable(k.path) == name);
        assert!(known, "{name}");
    }
}

#[test]
fn the_charts_configuration_is_accepted_with_what_the_chart_sets() {
    let values = include_str!("../../helm/firstseen/values.yaml");
    let block: Vec<&str> =
        values.lines().skip_while(|l| *l != "config: |").skip(1).take_while(|l| l.is_empty() || l.starts_with("  ")).collect();
    assert!(block.len() > 3);
    let config = load(
        &block.join("\n"),
        &[
            ("FIRSTSEEN_HTTP__LISTEN", "0.0.0.0:9464"),
            ("FIRSTSEEN_STATE__DIR", "/var/lib/firstseen/state"),
            ("FIRSTSEEN_HTTP__API_TOKEN", "t"),
        ],
    )
    .unwrap();
    assert_eq!(config.kafka.bootstrap_servers, "kafka:9092");
}

#[test]
fn suppression_rules_come_from_the_configuration_and_then_from_the_file() {
    let rule = |port: u16| format!("[[suppress]]\nport = {port}\nreason = \"r\"\nowner = \"o\"\n");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(rule(22).as_bytes()).unwrap();
    let text = format!("{}[detection]\nsuppress_file = {:?}", rule(80), file.path());
    let config = load(&text, &[]).unwrap();
    assert_eq!((config.suppress.own.len(), config.suppression().rules.len()), (1, 2));
    assert_eq!(config.suppression().rules.iter().map(|r| &*r.name).collect::<Vec<_>>(), ["rule-1", "rule-2"]);
    file.write_all(rule(0).replace("owner", "onwer").as_bytes()).unwrap();
    let path = file.path().display();
    assert_eq!(
        refused(&text, &[]),
        [
            format!("detection.suppress_file: {path}: suppress[2].onwer: unknown key; expected owner"),
            format!("detection.suppress_file: {path}: suppress[2].owner: is missing; expected a text: who answers for it"),
        ]
    );
}

#[test]
fn event_hubs_creates_no_topics() {
    assert!(!load("[kafka]\npreset = \"event-hubs\"", &[]).unwrap().output.create_topics);
    assert!(Config::default().output.create_topics);
}

proptest::proptest! {
    /// Whatever stands in the file, the answer is a configuration or messages, never a panic.
    #[test]
    fn no_text_panics(section in "[a-z.\\[\\]]{0,12}", text in ".{0,200}", name in "FIRSTSEEN_[A-Z_]{0,30}") {
        for text in [text.clone(), format!("[{section}]\n{text}"), format!("[{section}]\nx = {text:?}")] {
            if let Err(e) = Config::parse(&text, [(name.clone(), text.clone())]) {
                proptest::prop_assert!(!e.to_string().is_empty());
            }
        }
    }

    /// Every key takes or refuses every kind of value; a refusal names the key.
    #[test]
    fn no_value_panics(key in 0..keys::KEYS.len(), value in proptest::prop_oneof![
        proptest::strategy::Just("{}".to_owned()), proptest::strategy::Just("[]".to_owned()), proptest::strategy::Just("1979-05-27".to_owned()),
        proptest::prelude::any::<i64>().prop_map(|n| n.to_string()), proptest::prelude::any::<bool>().prop_map(|b| b.to_string()),
        "[a-z0-9:. ]{0,20}".prop_map(|t| format!("{t:?}")), "[a-z]{1,5}".prop_map(|t| format!("[{t:?}, 1]")),
    ]) {
        let path = keys::KEYS[key].path;
        if let Err(e) = Config::parse(&format!("{path} = {value}"), []) {
            proptest::prop_assert!(e.to_string().contains(path.split('.').next_back().unwrap()), "{}", e);
        }
    }
}
