//! The loader against Prometheus's own configuration files, and cases of ours.

use super::*;

fn load_text(text: &str) -> Result<Config, String> {
    let env = |name: &str| (name == "HOST").then(|| "box".to_owned());
    Config::from_text(text, Path::new("dir/prometheus.yml"), &Environment(&env))
        .map_err(|error| error.to_string())
}

fn check_error(text: &str, expected: &str) {
    assert_eq!(load_text(text).map(|_| ()).unwrap_err(), expected);
}

/// What upstream's own test expects of each bad file, in our words where Go's types showed through.
const CAUSES: &[(&str, &str)] = &[
    ("jobname", "job_name is empty"),
    ("jobname_dup", "found multiple scrape configs with job name \"prometheus\""),
    ("scrape_interval", "scrape timeout greater than scrape interval"),
    ("labelname", "\"\\xff\" is not a valid label name"),
    ("labelvalue", "\"\\xff\" is not a valid label value"),
    ("regex", "error parsing regexp"),
    ("modulus_missing", "relabel configuration for hashmod requires non-zero modulus"),
    ("labelkeep", "labelkeep action requires only 'regex', and no other fields"),
    ("labelkeep5", "labelkeep action requires only 'regex', and no other fields"),
    ("labeldrop", "labeldrop action requires only 'regex', and no other fields"),
    ("labeldrop5", "labeldrop action requires only 'regex', and no other fields"),
    ("dropequal", "relabel configuration for dropequal action requires 'target_label' value"),
    ("dropequal1", "dropequal action requires only 'source_labels' and `target_label`, and no other fields"),
    ("keepequal", "relabel configuration for keepequal action requires 'target_label' value"),
    ("keepequal1", "keepequal action requires only 'source_labels' and `target_label`, and no other fields"),
    ("labelmap", "!!binary value contains invalid base64 data"),
    ("lowercase", "relabel configuration for lowercase action requires 'target_label' value"),
    ("lowercase3", "'replacement' can not be set for lowercase action"),
    ("uppercase3", "'replacement' can not be set for uppercase action"),
    ("rules", "invalid rule file path"),
    (
        "unknown_attr",
        "unknown key \"consult_sd_configs\" in scrape_configs[0]; did you mean \"consul_sd_configs\"?",
    ),
    ("bearertoken", "at most one of bearer_token & bearer_token_file must be configured"),
    (
        "bearertoken_basicauth",
        "at most one of basic_auth, oauth2, bearer_token & bearer_token_file must be configured",
    ),
    (
        "kubernetes_http_config_without_api_server",
        "to use custom HTTP client configuration please provide the 'api_server' URL explicitly",
    ),
    (
        "kubernetes_kubeconfig_with_own_namespace",
        "cannot use 'kubeconfig_file' and 'namespaces.own_namespace' simultaneously",
    ),
    (
        "kubernetes_api_server_with_own_namespace",
        "cannot use 'api_server' and 'namespaces.own_namespace' simultaneously",
    ),
    ("kubernetes_kubeconfig_with_apiserver", "cannot use 'kubeconfig_file' and 'api_server' simultaneously"),
    (
        "kubernetes_kubeconfig_with_http_config",
        "cannot use a custom HTTP client configuration together with 'kubeconfig_file'",
    ),
    ("kubernetes_role", "role"),
    ("kubernetes_selectors_endpoints", "endpoints role supports only pod, service, endpoints selectors"),
    ("kubernetes_selectors_ingress", "ingress role supports only ingress selectors"),
    ("kubernetes_namespace_discovery", "unknown key \"foo\""),
    ("kubernetes_selectors_duplicated_role", "duplicated selector role: pod"),
    (
        "kubernetes_selectors_incorrect_selector",
        "invalid selector: 'metadata.status-Running'; can't understand 'metadata.status-Running'",
    ),
    (
        "kubernetes_authorization_basicauth",
        "at most one of basic_auth, oauth2 & authorization must be configured",
    ),
    ("marathon_no_servers", "marathon_sd: must contain at least one Marathon server"),
    (
        "marathon_authtoken_authorization",
        "marathon_sd: at most one of auth_token, auth_token_file & authorization must be configured",
    ),
    ("openstack_role", "unknown OpenStack SD role"),
    ("openstack_availability", "unknown availability invalid, must be one of admin, internal or public"),
    ("url_in_targetgroup", "\"http://bad\" is not a valid hostname"),
    ("target_label_missing", "relabel configuration for replace action requires 'target_label' value"),
    (
        "target_label_hashmod_missing",
        "relabel configuration for hashmod action requires 'target_label' value",
    ),
    ("unknown_global_attr", "unknown key \"nonexistent_field\" in global"),
    ("remote_read_url_missing", "url for remote_read is empty"),
    ("remote_write_header", "x-prometheus-remote-write-version is a reserved header. It must not be changed"),
    (
        "remote_write_authorization_header",
        "authorization header must be changed via the basic_auth, authorization, oauth2, sigv4, azuread or google_iam parameter",
    ),
    (
        "remote_write_wrong_msg",
        "unknown type for remote write protobuf message io.prometheus.writet.v2.Request",
    ),
    ("remote_write_url_missing", "url for remote_write is empty"),
    ("remote_write_dup", "found multiple remote write configs with job name \"queue1\""),
    ("remote_write_queue_capacity_zero", "remote write queue capacity must be positive"),
    ("remote_read_dup", "found multiple remote read configs with job name \"queue1\""),
    ("ec2_filters_empty_values", "EC2 SD configuration filter values cannot be empty"),
    ("section_key_dup", "key \"scrape_configs\" occurs twice; the first is in line 1"),
    ("azure_client_id_missing", "azure SD configuration requires a client_id"),
    ("azure_authentication_method", "unknown authentication_type \"invalid\""),
    ("oci_authentication_method", "oci_sd: unknown auth method \"invalid\""),
    ("empty_scrape_config", "empty or null scrape config section"),
    ("empty_rw_config", "empty or null remote write config section"),
    ("empty_rr_config", "empty or null remote read config section"),
    ("empty_target_relabel_config", "empty or null target relabeling rule"),
    ("empty_metric_relabel_config", "empty or null metric relabeling rule"),
    ("empty_alert_relabel_config", "empty or null alert relabeling rule"),
    ("empty_alertmanager_relabel_config", "empty or null Alertmanager target relabeling rule"),
    ("empty_rw_relabel_config", "empty or null relabeling rule in remote write config"),
    ("empty_static_config", "empty or null section in static_configs"),
    ("puppetdb_no_query", "query missing"),
    ("puppetdb_no_url", "URL is missing"),
    ("puppetdb_bad_url", "host is missing in URL"),
    ("hetzner_role", "unknown role"),
    ("eureka_invalid_server", "invalid eureka server URL"),
    ("scaleway_two_secrets", "at most one of secret_key & secret_key_file must be configured"),
    ("outscale_no_region", "outscale SD configuration requires a region"),
    ("scrape_body_size_limit", "units: unknown unit  in 100"),
    ("http_url_no_scheme", "URL scheme must be 'http' or 'https'"),
    ("empty_scrape_config_action", "relabel action cannot be empty"),
    ("tracing_missing_endpoint", "tracing endpoint must be set"),
    ("tracing_invalid_compression", "invalid compression type foo provided, valid options: gzip"),
    ("tracing_invalid_authorization_header", "authorization header configuration is not yet supported"),
    ("uyuni_no_server", "Uyuni SD configuration requires server host"),
    ("ionos_datacenter", "datacenter id can't be empty"),
    ("ovhcloud_no_secret", "application secret can not be empty"),
    ("ovhcloud_bad_service", "unknown service: fakeservice"),
    ("scrape_config_files_glob", "invalid scrape config file path \"scrape_configs/*/*\""),
    (
        "scrape_config_files_scrape_protocols",
        "scrape_protocols: unknown scrape protocol prometheusproto, supported: [OpenMetricsText0.0.1 OpenMetricsText1.0.0 PrometheusProto PrometheusText0.0.4 PrometheusText1.0.0] for scrape config with job name \"node\"",
    ),
    (
        "scrape_config_files_scrape_protocols2",
        "duplicated protocol in scrape_protocols, got [OpenMetricsText1.0.0 PrometheusProto OpenMetricsText1.0.0] for scrape config with job name \"node\"",
    ),
    (
        "scrape_config_files_fallback_scrape_protocol1",
        "invalid fallback_scrape_protocol for scrape config with job name \"node\": unknown scrape protocol prometheusproto",
    ),
    (
        "scrape_config_files_fallback_scrape_protocol2",
        "fallback_scrape_protocol: expected a text, found a list",
    ),
    (
        "scrape_config_utf8_conflicting",
        "utf8 metric names requested but validation scheme is not set to UTF8",
    ),
    ("stackit_endpoint", "invalid endpoint"),
    ("tsdb_retention_time", "not a valid duration string: \"-1h\""),
    ("tsdb_retention_size", "'storage.tsdb.retention.size' must be greater than or equal to 0"),
    ("tsdb_retention_percentage", "'storage.tsdb.retention.percentage' must be in the range [0, 100]"),
    (
        "tsdb_chunk_encoding_floats",
        "'storage.tsdb.chunk_encoding.floats' must be 'xor' or 'xor2', or the field must be omitted entirely, got \"xor3\"",
    ),
    ("metric_name_validation_scheme", "unrecognized ValidationScheme: \"invalid_scheme\""),
];

#[test]
fn prometheus_own_files_load_or_are_refused_with_the_cause() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/config");
    let Ok(entries) = std::fs::read_dir(&dir) else {
        println!("skipped: no conformance files");
        return;
    };
    let mut n_files = 0;
    let mut failures = Vec::new();
    for entry in entries.map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        // Their certificates are not there, so the text is read without them.
        let text = read_file(&entry.path());
        let result = text.and_then(|text| Config::from_text(&text, &entry.path(), &Environment(&|_| None)));
        if name.ends_with(".good.yml") {
            n_files += 1;
            if let Err(error) = result {
                failures.push(format!("{name} must load: {error}"));
            }
        } else if let Some(stem) = name.strip_suffix(".bad.yml") {
            n_files += 1;
            let cause = CAUSES.iter().find(|(known, _)| *known == stem).map_or("", |(_, cause)| cause);
            match result {
                Ok(_) => failures.push(format!("{name} must be refused: {cause}")),
                Err(error) if !error.to_string().contains(cause) => {
                    failures.push(format!("{name}: {error}\n  lacks: {cause}"));
                }
                Err(_) => {}
            }
        }
    }
    assert!(n_files > 150, "only {n_files} files found");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn errors_say_file_line_and_what_was_meant() {
    check_error(
        "global:\n  scrape_intervall: 15s\n",
        "dir/prometheus.yml:2: unknown key \"scrape_intervall\" in global; did you mean \"scrape_interval\"?",
    );
    check_error(
        "scrape_configs:\n- job_name: a\n  scrape_interval: 15\n",
        "dir/prometheus.yml:3: scrape_configs[0].scrape_interval: not a valid duration string: \"15\"",
    );
    check_error(
        "scrape_configs:\n- job_name: a\n  honor_labels: maybe\n",
        "dir/prometheus.yml:3: scrape_configs[0].honor_labels: expected true or false, found \"maybe\"",
    );
    check_error(
        "scrape_configs:\n- job_name: a\n  static_configs:\n  - targets: host\n",
        "dir/prometheus.yml:4: scrape_configs[0].static_configs[0].targets: expected a list, found the text \"host\"",
    );
    let error = load_text("global: [\n").map(|_| ()).unwrap_err();
    assert!(error.starts_with("dir/prometheus.yml:"), "{error}");
}

#[test]
fn an_empty_file_has_the_defaults() {
    let config = load_text("").unwrap();
    assert_eq!(config.global.scrape_interval_ms, 60_000);
    assert_eq!(config.global.scrape_timeout_ms, 10_000);
    assert_eq!(config.storage, StorageConfig::default());
    assert!(config.without_effect.is_empty());
}

#[test]
fn scrape_configs_inherit_from_global() {
    let config = load_text(
        "global: {scrape_interval: 5s, sample_limit: 7}\nscrape_configs:\n- job_name: a\n- job_name: b\n  sample_limit: 9\n  scrape_interval: 30s\n",
    )
    .unwrap();
    let [a, b] = &config.scrape_configs[..] else { panic!() };
    assert_eq!((a.scrape_interval_ms, a.scrape_timeout_ms, a.limits.samples), (5000, 5000, 7));
    assert_eq!((b.scrape_interval_ms, b.scrape_timeout_ms, b.limits.samples), (30_000, 5000, 9));
    assert_eq!(a.scrape_protocols, ScrapeProtocol::DEFAULT);
}

#[test]
fn environment_variables_expand_in_external_labels_only() {
    let config = load_text(
        "global:\n  external_labels: {a: '$HOST', b: 'x${HOST}y', c: '$$HOST', d: '$NONE', e: '1$'}\nscrape_configs: [{job_name: $HOST}]\n",
    )
    .unwrap();
    let labels = &config.global.external_labels;
    assert_eq!(labels.to_string(), "{a=\"box\", b=\"xboxy\", c=\"$HOST\", e=\"1$\"}");
    assert_eq!(config.scrape_configs[0].job_name, "$HOST");
}

#[test]
fn sections_without_effect_are_named() {
    let config = load_text("rule_files: [a.yml]\nremote_write: [{url: 'http://x/'}]\n").unwrap();
    assert_eq!(config.without_effect.len(), 2);
    assert!(config.without_effect[0].starts_with("rule_files:"));
    let config =
        load_text("scrape_configs: [{job_name: a, file_sd_configs: [{files: [x.json]}]}]\n").unwrap();
    assert!(config.without_effect[0].contains("file_sd_configs in job \"a\""));
}

#[test]
fn the_shown_configuration_hides_secrets_and_shows_defaults() {
    let config = load_text(
        "scrape_configs:\n- job_name: a\n  basic_auth: {username: u, password: hush}\n  http_headers: {X: {secrets: [hush]}}\nremote_write:\n- url: http://u:hush@x/\n  oauth2: {client_id: '1', client_secret: hush, token_url: 'http://t'}\n",
    )
    .unwrap();
    assert!(!config.yaml.contains("hush"), "{}", config.yaml);
    assert!(config.yaml.contains("password: <secret>"));
    assert!(config.yaml.contains("http://u:xxxxx@x/"));
    assert!(config.yaml.contains("scrape_interval: 1m"));
    assert!(!format!("{config:?}").contains("hush"));
    assert!(!config.scrape_configs[0].yaml.contains("hush"));
    // What is shown can be loaded again.
    load_text(&config.yaml).unwrap();
}

#[test]
fn relative_paths_start_from_the_folder_of_the_file() {
    let config =
        load_text("scrape_configs: [{job_name: a, authorization: {credentials_file: token}}]\n").unwrap();
    let authorization = config.scrape_configs[0].http.authorization.as_ref().unwrap();
    assert_eq!(authorization.credentials_file.as_deref(), Some(Path::new("dir/token")));
}

#[test]
fn certificates_and_urls_that_cannot_be_used_are_named_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let check = |http: &str, line: usize, reason: &str| {
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, format!("scrape_configs:\n- job_name: a\n{http}")).unwrap();
        let error = Config::load(&file, &Environment(&|_| None)).unwrap_err();
        let ConfigError::Invalid { line: found, reason: text, .. } = &error else { panic!("{error}") };
        assert!(*found == line && text.contains(reason), "{error}");
    };
    std::fs::write(folder.path().join("garbage.pem"), "no certificate").unwrap();
    let in_folder = |name: &str| folder.path().join(name).display().to_string();
    check(
        "  tls_config:\n    ca_file: missing.pem\n",
        4,
        &format!(
            "scrape_configs[0].tls_config.ca_file: unable to read CA file {}: No such file",
            in_folder("missing.pem")
        ),
    );
    check(
        "  tls_config:\n    server_name: x\n    ca_file: garbage.pem\n",
        5,
        "scrape_configs[0].tls_config.ca_file: tls_config: the CA holds no certificate in PEM",
    );
    check(
        "  tls_config:\n    cert_file: garbage.pem\n    key_file: garbage.pem\n",
        4,
        "tls_config.cert_file: tls_config: the certificate holds no certificate in PEM",
    );
    check("  tls_config:\n    max_version: TLS11\n", 4, "TLS before 1.2 is not supported");
    check(
        "  scheme: https\n  proxy_url: proxy:3128\n",
        4,
        "scrape_configs[0]: \"proxy:3128\": proxy_url: no scheme; write http://host:port",
    );
    check("  no_proxy: x\n", 3, "if no_proxy is configured, proxy_url must also be configured");
    check(
        "remote_write:\n- name: b\n  url: ':9090/write'\n",
        5,
        "remote_write[0].url: \":9090/write\" is not a URL",
    );
    check(
        "rule_files: ['a[.yml']\n",
        3,
        "invalid rule file path \"a[.yml\": a bracket or a backslash has no end",
    );
}
