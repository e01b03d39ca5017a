//! Service discovery sections: `static_configs` is read in full, the others are checked against
//! their schema and reported as not running in this version.
//!
//! Source: Prometheus v3.14, `discovery/*`, the `SDConfig` types and their `UnmarshalYAML`.

use super::http::{self, Base};
use super::types::TargetGroup;
use super::yaml::{Node, Result, Section};

/// What a key holds.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Duration,
    Integer,
    Boolean,
    List,
    Map,
    Filters,
    Tls,
    /// Checked by the kind's own code.
    Own,
}
use Kind::{
    Boolean as B, Duration as D, Filters as F, Integer as I, List as L, Map as M, Own as O, Text as S,
    Tls as T,
};

/// One kind of discovery: name, whether it takes the HTTP keys, its own keys.
struct Schema {
    key: &'static str,
    http: bool,
    fields: &'static [(&'static str, Kind)],
}

const AWS: [(&str, Kind); 9] = [
    ("endpoint", S),
    ("region", S),
    ("access_key", S),
    ("secret_key", S),
    ("profile", S),
    ("role_arn", S),
    ("external_id", S),
    ("refresh_interval", D),
    ("port", I),
];
const EC2: [(&str, Kind); 10] = with(AWS, [("filters", F)]);
const CLUSTERS: [(&str, Kind); 11] = with(AWS, [("clusters", L), ("request_concurrency", I)]);
const RDS: [(&str, Kind); 11] = with(AWS, [("filters", F), ("request_concurrency", I)]);
const ANY_AWS: [(&str, Kind); 12] = with(AWS, [("role", S), ("filters", F), ("clusters", L)]);

const fn with<const A: usize, const B: usize, const C: usize>(
    base: [(&'static str, Kind); A],
    more: [(&'static str, Kind); B],
) -> [(&'static str, Kind); C] {
    assert!(A + B == C);
    let mut all = [("", Kind::Text); C];
    let mut i = 0;
    while i < C {
        all[i] = if i < A { base[i] } else { more[i - A] };
        i += 1;
    }
    all
}

const SCHEMAS: [Schema; 35] = [
    Schema { key: "aws_sd_configs", http: true, fields: &ANY_AWS },
    Schema { key: "ec2_sd_configs", http: true, fields: &EC2 },
    Schema { key: "ecs_sd_configs", http: true, fields: &CLUSTERS },
    Schema { key: "elasticache_sd_configs", http: true, fields: &CLUSTERS },
    Schema { key: "lightsail_sd_configs", http: true, fields: &AWS },
    Schema { key: "msk_sd_configs", http: true, fields: &CLUSTERS },
    Schema { key: "rds_sd_configs", http: true, fields: &RDS },
    Schema {
        key: "azure_sd_configs",
        http: true,
        fields: &[
            ("environment", S),
            ("port", I),
            ("subscription_id", S),
            ("tenant_id", S),
            ("client_id", S),
            ("client_secret", S),
            ("refresh_interval", D),
            ("authentication_method", S),
            ("resource_group", S),
        ],
    },
    Schema {
        key: "consul_sd_configs",
        http: true,
        fields: &[
            ("server", S),
            ("path_prefix", S),
            ("token", S),
            ("datacenter", S),
            ("namespace", S),
            ("partition", S),
            ("tag_separator", S),
            ("scheme", S),
            ("username", S),
            ("password", S),
            ("allow_stale", B),
            ("refresh_interval", D),
            ("services", L),
            ("tags", L),
            ("node_meta", M),
            ("filter", S),
            ("health_filter", S),
        ],
    },
    Schema {
        key: "digitalocean_sd_configs",
        http: true,
        fields: &[("refresh_interval", D), ("port", I), ("role", S)],
    },
    Schema {
        key: "dns_sd_configs",
        http: false,
        fields: &[("names", L), ("refresh_interval", D), ("type", S), ("port", I)],
    },
    Schema {
        key: "docker_sd_configs",
        http: true,
        fields: &[
            ("host", S),
            ("port", I),
            ("filters", F),
            ("host_networking_host", S),
            ("refresh_interval", D),
            ("match_first_network", B),
        ],
    },
    Schema {
        key: "dockerswarm_sd_configs",
        http: true,
        fields: &[("host", S), ("role", S), ("port", I), ("filters", F), ("refresh_interval", D)],
    },
    Schema { key: "eureka_sd_configs", http: true, fields: &[("server", S), ("refresh_interval", D)] },
    Schema { key: "file_sd_configs", http: false, fields: &[("files", L), ("refresh_interval", D)] },
    Schema {
        key: "gce_sd_configs",
        http: false,
        fields: &[
            ("project", S),
            ("zone", S),
            ("filter", S),
            ("refresh_interval", D),
            ("port", I),
            ("tag_separator", S),
        ],
    },
    Schema {
        key: "hetzner_sd_configs",
        http: true,
        fields: &[("refresh_interval", D), ("port", I), ("role", S), ("label_selector", S)],
    },
    Schema { key: "http_sd_configs", http: true, fields: &[("url", S), ("refresh_interval", D)] },
    Schema {
        key: "ionos_sd_configs",
        http: true,
        fields: &[("datacenter_id", S), ("refresh_interval", D), ("port", I)],
    },
    Schema {
        key: "kubernetes_sd_configs",
        http: true,
        fields: &[
            ("api_server", S),
            ("role", S),
            ("kubeconfig_file", S),
            ("namespaces", O),
            ("selectors", O),
            ("attach_metadata", O),
        ],
    },
    Schema {
        key: "kuma_sd_configs",
        http: true,
        fields: &[("server", S), ("client_id", S), ("refresh_interval", D), ("fetch_timeout", D)],
    },
    Schema {
        key: "linode_sd_configs",
        http: true,
        fields: &[("refresh_interval", D), ("port", I), ("tag_separator", S), ("region", S)],
    },
    Schema {
        key: "marathon_sd_configs",
        http: true,
        fields: &[("servers", L), ("refresh_interval", D), ("auth_token", S), ("auth_token_file", S)],
    },
    Schema { key: "nerve_sd_configs", http: false, fields: &[("servers", L), ("paths", L), ("timeout", D)] },
    Schema {
        key: "nomad_sd_configs",
        http: true,
        fields: &[
            ("allow_stale", B),
            ("namespace", S),
            ("refresh_interval", D),
            ("region", S),
            ("server", S),
            ("tag_separator", S),
        ],
    },
    Schema {
        key: "oci_sd_configs",
        http: true,
        fields: &[
            ("auth", S),
            ("tenancy", S),
            ("user", S),
            ("fingerprint", S),
            ("key_file", S),
            ("key_passphrase", S),
            ("key_passphrase_file", S),
            ("region", S),
            ("compartments", L),
            ("port", I),
            ("refresh_interval", D),
        ],
    },
    Schema {
        key: "openstack_sd_configs",
        http: false,
        fields: &[
            ("identity_endpoint", S),
            ("username", S),
            ("userid", S),
            ("password", S),
            ("project_name", S),
            ("project_id", S),
            ("domain_name", S),
            ("domain_id", S),
            ("application_credential_name", S),
            ("application_credential_id", S),
            ("application_credential_secret", S),
            ("role", S),
            ("region", S),
            ("refresh_interval", D),
            ("port", I),
            ("all_tenants", B),
            ("tls_config", T),
            ("availability", S),
        ],
    },
    Schema {
        key: "outscale_sd_configs",
        http: true,
        fields: &[
            ("endpoint", S),
            ("region", S),
            ("access_key", S),
            ("secret_key", S),
            ("secret_key_file", S),
            ("refresh_interval", D),
            ("port", I),
        ],
    },
    Schema {
        key: "ovhcloud_sd_configs",
        http: false,
        fields: &[
            ("endpoint", S),
            ("application_key", S),
            ("application_secret", S),
            ("consumer_key", S),
            ("refresh_interval", D),
            ("service", S),
        ],
    },
    Schema {
        key: "puppetdb_sd_configs",
        http: true,
        fields: &[("refresh_interval", D), ("url", S), ("query", S), ("include_parameters", B), ("port", I)],
    },
    Schema {
        key: "scaleway_sd_configs",
        http: true,
        fields: &[
            ("project_id", S),
            ("api_url", S),
            ("zone", S),
            ("access_key", S),
            ("secret_key", S),
            ("secret_key_file", S),
            ("name_filter", S),
            ("tags_filter", L),
            ("refresh_interval", D),
            ("port", I),
            ("role", S),
        ],
    },
    Schema {
        key: "serverset_sd_configs",
        http: false,
        fields: &[("servers", L), ("paths", L), ("timeout", D)],
    },
    Schema {
        key: "stackit_sd_configs",
        http: true,
        fields: &[
            ("project", S),
            ("refresh_interval", D),
            ("port", I),
            ("region", S),
            ("endpoint", S),
            ("service_account_key", S),
            ("private_key", S),
            ("service_account_key_path", S),
            ("private_key_path", S),
            ("credentials_file_path", S),
        ],
    },
    Schema {
        key: "triton_sd_configs",
        http: false,
        fields: &[
            ("account", S),
            ("role", S),
            ("dns_suffix", S),
            ("endpoint", S),
            ("groups", L),
            ("port", I),
            ("refresh_interval", D),
            ("tls_config", T),
            ("version", I),
        ],
    },
    Schema {
        key: "uyuni_sd_configs",
        http: true,
        fields: &[
            ("server", S),
            ("username", S),
            ("password", S),
            ("entitlement", S),
            ("separator", S),
            ("refresh_interval", D),
        ],
    },
];

/// `vultr_sd_configs` has no keys but these.
const VULTR: Schema =
    Schema { key: "vultr_sd_configs", http: true, fields: &[("refresh_interval", D), ("port", I)] };

/// Discovery sections of a scrape config or an Alertmanager config.
pub(crate) struct Discovery {
    /// `static_configs`
    pub static_configs: Vec<TargetGroup>,
    /// Keys of the other kinds that are there.
    pub others: Vec<String>,
}

/// Reads every `*_sd_configs` and `static_configs` of a section.
pub(crate) fn read(parent: &Section<'_>, dir: Base<'_>) -> Result<Discovery> {
    // As upstream, only what scrapes and sends needs its certificates for the configuration to be good.
    let dir = Base { checks_files: false, ..dir };
    let mut discovery = Discovery { static_configs: read_static(parent)?, others: Vec::new() };
    for schema in SCHEMAS.iter().chain([&VULTR]) {
        let Some(node) = parent.get(schema.key) else { continue };
        let at = parent.path_of(schema.key);
        for (i, item) in node.as_list(&at)?.iter().enumerate() {
            let at = format!("{at}[{i}]");
            if item.is_null() {
                return Err(item.problem(format!("empty or null section in {}", schema.key)));
            }
            check_entry(schema, item, at, dir)?;
        }
        discovery.others.push(schema.key.to_owned());
    }
    Ok(discovery)
}

fn read_static(parent: &Section<'_>) -> Result<Vec<TargetGroup>> {
    let at = parent.path_of("static_configs");
    let Some(node) = parent.get("static_configs") else { return Ok(Vec::new()) };
    let mut groups = Vec::new();
    for (i, item) in node.as_list(&at)?.iter().enumerate() {
        if item.is_null() {
            return Err(item.problem("empty or null section in static_configs"));
        }
        let section = Section::new(item, format!("{at}[{i}]"))?;
        let group = TargetGroup {
            targets: section.texts("targets")?,
            labels: section.text_map("labels")?.into_iter().collect(),
        };
        section.finish()?;
        if let Some(name) = group.labels.keys().find(|name| name.is_empty()) {
            return Err(section.problem_at("labels", format!("{name:?} is not a valid label name")));
        }
        groups.push(group);
    }
    Ok(groups)
}

/// Refuses addresses that are URLs; only of use where no relabelling may change them.
pub(crate) fn check_addresses(parent: &Section<'_>, groups: &[TargetGroup]) -> Result<()> {
    match groups.iter().flat_map(|group| &group.targets).find(|target| target.contains('/')) {
        Some(target) => {
            Err(parent.problem_at("static_configs", format!("{target:?} is not a valid hostname")))
        }
        None => Ok(()),
    }
}

fn check_entry(schema: &Schema, node: &Node, at: String, dir: Base<'_>) -> Result<()> {
    let section = Section::new(node, at)?;
    if schema.http {
        section.knows(&http::KEYS);
    }
    for &(key, kind) in schema.fields {
        match kind {
            Kind::Text => drop(section.text(key)?),
            Kind::Duration => drop(section.duration_ms(key)?),
            Kind::Integer => drop(section.number::<i64>(key, "a whole number")?),
            Kind::Boolean => drop(section.boolean(key)?),
            Kind::List => drop(section.texts(key)?),
            Kind::Map => drop(section.text_map(key)?),
            Kind::Filters => check_filters(&section, key)?,
            Kind::Tls => {
                if let Some(node) = section.get(key) {
                    http::read_tls(node, section.path_of(key), dir)?;
                }
            }
            Kind::Own => drop(section.node(key)),
        }
    }
    section.finish()?;
    check_kind(schema.key, &section)
        .map_err(|reason| section.problem(format!("{}: {reason}", section.path)))?;
    if schema.http {
        http::read(&section, dir)?;
    }
    if schema.key == "kubernetes_sd_configs" { check_kubernetes(&section) } else { Ok(()) }
}

fn check_filters(parent: &Section<'_>, key: &'static str) -> Result<()> {
    let at = parent.path_of(key);
    let Some(node) = parent.get(key) else { return Ok(()) };
    for (i, item) in node.as_list(&at)?.iter().enumerate() {
        let section = Section::new(item, format!("{at}[{i}]"))?;
        section.text("name")?;
        let values = section.texts("values")?;
        section.finish()?;
        if values.is_empty() && parent.path.contains("ec2_sd_configs") {
            return Err(section.problem("EC2 SD configuration filter values cannot be empty"));
        }
    }
    Ok(())
}

type Check = std::result::Result<(), String>;

/// What a kind requires beyond the types of its keys.
fn check_kind(key: &str, section: &Section<'_>) -> Check {
    // The types were checked before, so a text is a text.
    let text = |key: &'static str| section.text(key).ok().flatten().unwrap_or_default();
    let has = |key: &'static str| !text(key).is_empty();
    let n_items = |key: &'static str| section.texts(key).map_or(0, |items| items.len());
    let require = |holds: bool, reason: &str| if holds { Ok(()) } else { Err(reason.to_owned()) };
    match key {
        "azure_sd_configs" => check_azure(&text),
        "aws_sd_configs" => require(
            ["ec2", "ecs", "elasticache", "lightsail", "msk", "rds"].contains(&text("role").as_str()),
            &format!("unknown AWS SD role {:?}", text("role")),
        ),
        "consul_sd_configs" => {
            let server_given = section.get("server").is_none() || !text("server").trim().is_empty();
            require(server_given, "consul SD configuration requires a server address")?;
            let two_auths = (has("username") || has("password")) && section.get("basic_auth").is_some();
            require(
                !two_auths,
                "at most one of consul SD configuration username and password and basic auth can be configured",
            )?;
            let other_auth = section.get("authorization").is_some() || section.get("oauth2").is_some();
            require(
                !(has("token") && other_auth),
                "at most one of consul SD token, authorization, or oauth2 can be configured",
            )
        }
        "digitalocean_sd_configs" => check_role(&text("role"), &["", "droplets", "databases"]),
        "dns_sd_configs" => {
            require(n_items("names") > 0, "DNS-SD config must contain at least one SRV record name")?;
            match text("type").to_ascii_uppercase().as_str() {
                "" | "SRV" => Ok(()),
                "A" | "AAAA" | "MX" | "NS" => require(
                    section.number::<i64>("port", "").ok().flatten().unwrap_or(0) != 0,
                    "a port is required in DNS-SD configs for all record types except SRV",
                ),
                _ => Err(format!("invalid DNS-SD records type {}", text("type"))),
            }
        }
        "docker_sd_configs" => require(has("host"), "host missing"),
        "dockerswarm_sd_configs" => {
            require(has("host"), "host missing")?;
            match text("role").as_str() {
                "services" | "nodes" | "tasks" => Ok(()),
                "" => Err("role missing (one of: tasks, services, nodes)".to_owned()),
                other => Err(format!("invalid role {other}, expected tasks, services, or nodes")),
            }
        }
        "eureka_sd_configs" => {
            require(has("server"), "eureka_sd: empty or null eureka server")?;
            let (scheme, host) = url_parts(&text("server"));
            require(!scheme.is_empty() && !host.is_empty(), "eureka_sd: invalid eureka server URL")
        }
        "file_sd_configs" => {
            require(
                n_items("files") > 0,
                "file service discovery config must contain at least one path name",
            )?;
            let files = section.texts("files").unwrap_or_default();
            match files.iter().find(|name| !is_file_sd_name(name)) {
                Some(name) => Err(format!("path name {name:?} is not valid for file discovery")),
                None => Ok(()),
            }
        }
        "gce_sd_configs" => {
            require(has("project"), "GCE SD configuration requires a project")?;
            require(has("zone"), "GCE SD configuration requires a zone")
        }
        "hetzner_sd_configs" => {
            require(has("role"), "role missing (one of: robot, hcloud)")?;
            check_role(&text("role"), &["robot", "hcloud"])
        }
        "http_sd_configs" => check_url(&text("url")),
        "ionos_sd_configs" => require(has("datacenter_id"), "datacenter id can't be empty"),
        "kuma_sd_configs" => require(has("server"), "kuma SD server must not be empty"),
        "marathon_sd_configs" => {
            require(n_items("servers") > 0, "marathon_sd: must contain at least one Marathon server")?;
            check_marathon(section, has("auth_token"), has("auth_token_file"))
        }
        "nerve_sd_configs" | "serverset_sd_configs" => {
            require(n_items("servers") > 0, "must contain at least one Zookeeper server")?;
            require(n_items("paths") > 0, "must contain at least one path")?;
            let paths = section.texts("paths").unwrap_or_default();
            match paths.iter().find(|path| !path.starts_with('/')) {
                Some(path) => Err(format!("path must begin with '/': {path}")),
                None => Ok(()),
            }
        }
        "nomad_sd_configs" => {
            let server_given = section.get("server").is_none() || !text("server").trim().is_empty();
            require(server_given, "nomad SD configuration requires a server address")
        }
        "oci_sd_configs" => match text("auth").as_str() {
            "" | "api_key" | "instance_principal" => Ok(()),
            other => Err(format!(
                "oci_sd: unknown auth method {other:?}, expected \"api_key\" or \"instance_principal\""
            )),
        },
        "openstack_sd_configs" => {
            match text("availability").as_str() {
                "" | "public" | "internal" | "admin" => {}
                other => {
                    return Err(format!(
                        "unknown availability {other}, must be one of admin, internal or public"
                    ));
                }
            }
            match text("role").as_str() {
                "" => return Err("role missing (one of: instance, hypervisor, loadbalancer)".to_owned()),
                "instance" | "hypervisor" | "loadbalancer" => {}
                other => return Err(format!("unknown OpenStack SD role {other:?}")),
            }
            require(has("region"), "openstack SD configuration requires a region")
        }
        "outscale_sd_configs" => {
            require(has("region"), "outscale SD configuration requires a region")?;
            require(has("access_key"), "outscale SD configuration requires access_key")?;
            check_secret_key(has("secret_key"), has("secret_key_file"))
        }
        "ovhcloud_sd_configs" => {
            let endpoint_given = section.get("endpoint").is_none() || has("endpoint");
            require(endpoint_given, "endpoint can not be empty")?;
            require(has("application_key"), "application key can not be empty")?;
            require(has("application_secret"), "application secret can not be empty")?;
            require(has("consumer_key"), "consumer key can not be empty")?;
            match text("service").as_str() {
                "dedicated_server" | "vps" => Ok(()),
                other => Err(format!("unknown service: {other}")),
            }
        }
        "puppetdb_sd_configs" => {
            check_url(&text("url"))?;
            require(has("query"), "query missing")
        }
        "scaleway_sd_configs" => {
            require(has("role"), "role missing (one of: instance, baremetal)")?;
            check_role(&text("role"), &["instance", "baremetal"])?;
            require(has("project_id"), "project_id is mandatory")?;
            check_secret_key(has("secret_key"), has("secret_key_file"))?;
            require(has("access_key"), "access_key is mandatory")
        }
        "stackit_sd_configs" => {
            let endpoint = text("endpoint");
            require(is_parsable_url(&endpoint), &format!("stackit_sd: invalid endpoint {endpoint:?}"))
        }
        "triton_sd_configs" => {
            require(has("account"), "triton SD configuration requires an account")?;
            require(has("dns_suffix"), "triton SD configuration requires a dns_suffix")?;
            require(has("endpoint"), "triton SD configuration requires an endpoint")
        }
        "uyuni_sd_configs" => {
            require(has("server"), "Uyuni SD configuration requires server host")?;
            require(is_parsable_url(&text("server")), "Uyuni Server URL is not valid")?;
            require(has("username"), "Uyuni SD configuration requires a username")?;
            require(has("password"), "Uyuni SD configuration requires a password")
        }
        _ => Ok(()),
    }
}

fn check_azure(text: &dyn Fn(&'static str) -> String) -> Check {
    let method = text("authentication_method");
    let mut needed = vec!["subscription_id"];
    if method.is_empty() || method == "OAuth" {
        needed.extend(["tenant_id", "client_id", "client_secret"]);
    }
    if let Some(key) = needed.into_iter().find(|key| text(key).is_empty()) {
        return Err(format!("azure SD configuration requires a {key}"));
    }
    match method.as_str() {
        "" | "OAuth" | "ManagedIdentity" | "SDK" | "WorkloadIdentity" => Ok(()),
        other => Err(format!(
            "unknown authentication_type {other:?}. Supported types are \"OAuth\", \"ManagedIdentity\", \"SDK\" or \"WorkloadIdentity\""
        )),
    }
}

fn check_role(role: &str, known: &[&str]) -> Check {
    if known.contains(&role) { Ok(()) } else { Err(format!("unknown role {role:?}")) }
}

fn check_secret_key(has_key: bool, has_file: bool) -> Check {
    match (has_key, has_file) {
        (false, false) => Err("one of secret_key & secret_key_file must be configured".to_owned()),
        (true, true) => Err("at most one of secret_key & secret_key_file must be configured".to_owned()),
        _ => Ok(()),
    }
}

fn check_marathon(section: &Section<'_>, token: bool, file: bool) -> Check {
    let reason = if token && file {
        "marathon_sd: at most one of auth_token & auth_token_file must be configured"
    } else if !token && !file {
        return Ok(());
    } else if section.get("basic_auth").is_some() {
        "marathon_sd: at most one of basic_auth, auth_token & auth_token_file must be configured"
    } else if section.get("bearer_token").is_some() || section.get("bearer_token_file").is_some() {
        "marathon_sd: at most one of bearer_token, bearer_token_file, auth_token & auth_token_file must be configured"
    } else if section.get("authorization").is_some() {
        "marathon_sd: at most one of auth_token, auth_token_file & authorization must be configured"
    } else {
        return Ok(());
    };
    Err(reason.to_owned())
}

fn check_kubernetes(section: &Section<'_>) -> Result<()> {
    const ROLES: [&str; 6] = ["pod", "service", "endpoints", "endpointslice", "node", "ingress"];
    let role = section.text("role")?.unwrap_or_default();
    if role.is_empty() {
        return Err(
            section.problem("role missing (one of: pod, service, endpoints, endpointslice, node, ingress)")
        );
    }
    if !ROLES.contains(&role.as_str()) {
        return Err(section.problem_at("role", format!("unknown Kubernetes SD role {role:?}")));
    }
    let has_server = section.text("api_server")?.is_some_and(|text| !text.is_empty());
    let has_kubeconfig = section.text("kubeconfig_file")?.is_some_and(|text| !text.is_empty());
    let has_http = http::KEYS.iter().any(|key| section.get(key).is_some());
    let own_namespace = match section.get("namespaces") {
        Some(node) => {
            let namespaces = Section::new(node, section.path_of("namespaces"))?;
            namespaces.texts("names")?;
            let own = namespaces.boolean("own_namespace")?.unwrap_or(false);
            namespaces.finish()?;
            own
        }
        None => false,
    };
    if let Some(node) = section.get("attach_metadata") {
        let attach = Section::new(node, section.path_of("attach_metadata"))?;
        for key in ["node", "namespace", "deployment", "job", "cronjob"] {
            attach.boolean(key)?;
        }
        attach.finish()?;
    }
    for (wrong, reason) in [
        (has_server && has_kubeconfig, "cannot use 'kubeconfig_file' and 'api_server' simultaneously"),
        (
            has_kubeconfig && has_http,
            "cannot use a custom HTTP client configuration together with 'kubeconfig_file'",
        ),
        (
            !has_server && has_http,
            "to use custom HTTP client configuration please provide the 'api_server' URL explicitly",
        ),
        (
            has_server && own_namespace,
            "cannot use 'api_server' and 'namespaces.own_namespace' simultaneously",
        ),
        (
            has_kubeconfig && own_namespace,
            "cannot use 'kubeconfig_file' and 'namespaces.own_namespace' simultaneously",
        ),
    ] {
        if wrong {
            return Err(section.problem(reason));
        }
    }
    check_selectors(section, &role)
}

fn check_selectors(parent: &Section<'_>, role: &str) -> Result<()> {
    let allowed: &[&str] = match role {
        "pod" => &["pod", "node"],
        "endpoints" => &["pod", "service", "endpoints"],
        "endpointslice" => &["pod", "service", "endpointslice"],
        "service" => &["service"],
        "node" => &["node"],
        _ => &["ingress"],
    };
    let at = parent.path_of("selectors");
    let Some(node) = parent.get("selectors") else { return Ok(()) };
    let mut seen: Vec<String> = Vec::new();
    for (i, item) in node.as_list(&at)?.iter().enumerate() {
        let section = Section::new(item, format!("{at}[{i}]"))?;
        let selector_role = section.text("role")?.unwrap_or_default();
        let field = section.text("field")?.unwrap_or_default();
        section.text("label")?;
        section.finish()?;
        if seen.contains(&selector_role) {
            return Err(section.problem(format!("duplicated selector role: {selector_role}")));
        }
        if !allowed.contains(&selector_role.as_str()) {
            return Err(
                section.problem(format!("{role} role supports only {} selectors", allowed.join(", ")))
            );
        }
        seen.push(selector_role);
        if let Some(part) = field.split(',').find(|part| !part.is_empty() && !part.contains('=')) {
            return Err(section
                .problem_at("field", format!("invalid selector: '{field}'; can't understand '{part}'")));
        }
    }
    Ok(())
}

/// Scheme and host of a URL, either empty where there is none.
fn url_parts(url: &str) -> (String, String) {
    let Some((scheme, rest)) = url.split_once("://") else { return (String::new(), String::new()) };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let host = authority.rsplit('@').next().unwrap_or("");
    (scheme.to_ascii_lowercase(), host.to_owned())
}

fn check_url(url: &str) -> Check {
    if url.is_empty() {
        return Err("URL is missing".to_owned());
    }
    let (scheme, host) = url_parts(url);
    if scheme != "http" && scheme != "https" {
        return Err("URL scheme must be 'http' or 'https'".to_owned());
    }
    if host.is_empty() { Err("host is missing in URL".to_owned()) } else { Ok(()) }
}

/// Whether Go's `url.Parse` would take it: no control characters, no space or broken escape or
/// bracket in the host, a scheme where there is a colon first.
pub(crate) fn is_parsable_url(url: &str) -> bool {
    if url.chars().any(char::is_control) {
        return false;
    }
    if url.starts_with(':') {
        return false;
    }
    let (_, host) = url_parts(url);
    let bad_port = host.rsplit_once(':').is_some_and(|(before, port)| {
        !before.ends_with(']') && !before.contains('[') && !port.bytes().all(|b| b.is_ascii_digit())
    });
    let brackets_match = host.matches('[').count() == host.matches(']').count();
    let escapes_are_whole = url
        .split('%')
        .skip(1)
        .all(|rest| rest.as_bytes().get(..2).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)));
    !bad_port && brackets_match && escapes_are_whole && !host.contains(' ')
}

/// Upstream's `^[^*]*(\*[^/]*)?\.(json|yml|yaml|JSON|YML|YAML)$`.
fn is_file_sd_name(name: &str) -> bool {
    let Some((stem, extension)) = name.rsplit_once('.') else { return false };
    let known = ["json", "yml", "yaml", "JSON", "YML", "YAML"].contains(&extension);
    let star_is_last = stem.split_once('*').is_none_or(|(_, tail)| !tail.contains('/'));
    known && star_is_last
}
