//! Layers of settings as text, each of which knows where it comes from.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::error::{ConfigError, Result};

/// Most bytes of a file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Most bytes of what a reader says of a file that is not TOML.
const SYNTAX_BYTES_MAX: usize = 1000;

/// Every key, as a file writes it.
pub(super) const KEYS: [&str; 40] = [
    "threads",
    "memory",
    "disk",
    "keep_shuffles_after",
    "spill_folder",
    "cache",
    "cache_size",
    "cache_grows_only",
    "read_ahead",
    "read_size",
    "list_count",
    "line_size",
    "requests",
    "request_timeout",
    "memo_size",
    "cut_lineage_every",
    "seed",
    "progress",
    "log",
    "json",
    "batch_records",
    "processes",
    "parameter_workers",
    "spares",
    "events",
    "chaos",
    "lease",
    "restarts",
    "grace",
    "parameter_copies",
    "speculate_after",
    "shared_memory",
    "unlike_machines",
    "token_file",
    "device.gpu",
    "device.cudnn",
    "device.cuda_libraries",
    "device.gpu_processes",
    "device.gpu_memory",
    "device.precision",
];

/// What the keys of the one section of a file begin with. Variables and flags leave it out.
const SECTION: &str = "device.";

/// The key that only a variable sets: how a started process learns to which cluster it belongs. Nobody types it, so it
/// is not among those that an error shows.
const JOIN: &str = "join";

/// What the name of a variable begins with.
const PREFIX: &str = "DISTDL_";

/// Kubernetes tells every program of a namespace of each service there, in variables whose names have one of these in
/// them, or [`END_OF_SERVICES`] at their end: so may a service called `distdl` or `distdl-name`. No key has.
const OF_SERVICES: [&str; 3] = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT_"];
const END_OF_SERVICES: &str = "_PORT";

/// How alike an unknown key and a known one must be for a suggestion, from 0 to 1.
const LIKENESS_MIN: f64 = 0.7;

/// Where a setting stands.
#[derive(Debug, Clone)]
enum Origin {
    File(String),
    Variables,
    Flags,
}

impl Origin {
    /// A key as it is written there.
    fn written(&self, key: &str) -> String {
        match self {
            Self::File(_) => key.to_owned(),
            Self::Variables => format!("{PREFIX}{}", without_section(key).to_ascii_uppercase()),
            Self::Flags => format!("--{}", without_section(key).replace('_', "-")),
        }
    }

    fn describe(&self, key: &str) -> String {
        let written = self.written(key);
        match self {
            Self::File(path) => format!("key `{written}` in the file {path}"),
            Self::Variables => format!("environment variable {written}"),
            Self::Flags => format!("flag {written}"),
        }
    }
}

pub(super) fn without_section(key: &str) -> &str {
    key.strip_prefix(SECTION).unwrap_or(key)
}

/// A key from its name without the section. A name that is no key stays as it is.
fn with_section(name: String) -> String {
    match KEYS.iter().find(|key| key.strip_prefix(SECTION) == Some(&name)) {
        Some(key) => (*key).to_owned(),
        None => name,
    }
}

/// Whether a variable tells of a service of Kubernetes.
pub(super) fn is_of_service(name: &str) -> bool {
    name.ends_with(END_OF_SERVICES) || OF_SERVICES.iter().any(|theirs| name.contains(theirs))
}

/// Whole keys in place of the section.
fn out_of_section(mut settings: Dict) -> Dict {
    let name = SECTION.trim_end_matches('.');
    match settings.remove(name) {
        Some(Value::Dict(_, section)) => {
            settings.extend(
                section
                    .into_iter()
                    .map(|(key, value)| (format!("{SECTION}{key}"), value)),
            );
        }
        Some(other) => {
            settings.insert(name.to_owned(), other);
        }
        None => {}
    }
    settings
}

/// The settings of one origin, by whole keys.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    origin: Origin,
    settings: Dict,
}

impl Layer {
    /// The file that is `named`, which must exist, else the `usual` one if it does.
    pub(super) fn file(usual: Option<&Path>, named: Option<&Path>) -> Result<Option<Self>> {
        let Some(path) = named.or(usual) else { return Ok(None) };
        let text = match read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => return Ok(None),
            Err(error) => {
                let remedy = match error.kind() {
                    ErrorKind::NotFound => "check the path that `--config` names, or leave the flag out",
                    ErrorKind::PermissionDenied => "give the user that runs this program the right to read it",
                    ErrorKind::IsADirectory => "name a file, not a folder",
                    ErrorKind::InvalidData => "a configuration is text in UTF-8",
                    ErrorKind::FileTooLarge => "name one that has only settings",
                    _ => "name another with `--config`",
                };
                return Err(ConfigError::File {
                    path: path.to_owned(),
                    message: error.to_string(),
                    remedy: remedy.into(),
                });
            }
        };
        let settings = Toml::from_str(&text).map_err(|error| {
            let whole = error.to_string();
            ConfigError::Syntax {
                path: path.to_owned(),
                message: match whole.len() > SYNTAX_BYTES_MAX {
                    // It shows the line, which is of any length.
                    true => error.message().to_owned(),
                    false => whole.trim_end().to_owned(),
                },
            }
        })?;
        Ok(Some(Self {
            origin: Origin::File(path.display().to_string()),
            settings: out_of_section(settings),
        }))
    }

    pub(super) fn variables(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = variables.into_iter().filter_map(|(name, text)| {
            let key = name.strip_prefix(PREFIX)?;
            (!is_of_service(&name)).then(|| (with_section(key.to_ascii_lowercase()), Value::from(text)))
        });
        Self {
            origin: Origin::Variables,
            settings: ours.collect(),
        }
    }

    pub(super) fn flags(flags: impl IntoIterator<Item = (&'static str, Option<String>)>) -> Self {
        let given = flags
            .into_iter()
            .filter_map(|(key, text)| Some((key.to_owned(), Value::from(text?))));
        Self {
            origin: Origin::Flags,
            settings: given.collect(),
        }
    }

    /// Whether it takes the key.
    fn takes(&self, key: &str) -> bool {
        KEYS.contains(&key) || (key == JOIN && matches!(self.origin, Origin::Variables))
    }

    /// The layer, if all its keys exist.
    pub(super) fn known(self) -> Result<Self> {
        match self.settings.keys().find(|key| !self.takes(key)) {
            Some(key) => Err(self.unknown_key(key)),
            None => Ok(self),
        }
    }

    /// Its settings as variables. Lists and tables, which no key takes, are left out.
    pub(super) fn variables_of(&self) -> Vec<(String, String)> {
        let settings = self.settings.iter();
        settings
            .filter_map(|(key, value)| Some((Origin::Variables.written(key), text(value)?)))
            .collect()
    }

    fn unknown_key(&self, key: &str) -> ConfigError {
        let given = key.to_ascii_lowercase().replace('-', "_");
        let likeness = |known: &str| {
            let whole = strsim::jaro_winkler(known, &given);
            whole.max(strsim::jaro_winkler(without_section(known), without_section(&given)))
        };
        let nearest = KEYS
            .iter()
            .copied()
            .max_by(|left, right| likeness(left).total_cmp(&likeness(right)));
        let written = |key: &str| self.origin.written(key);
        ConfigError::UnknownKey {
            origin: self.origin.describe(key),
            suggestion: nearest.filter(|known| likeness(known) >= LIKENESS_MIN).map(written),
            known: KEYS.map(written).join(", "),
        }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        let origin = self.origin.clone();
        Metadata::named("settings").interpolater(move |_, keys| origin.describe(&keys.join(".")))
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let (sections, mut settings): (Dict, Dict) =
            (self.settings.clone().into_iter()).partition(|(key, _)| key.starts_with(SECTION));
        if !sections.is_empty() {
            let bare = |(key, value): (String, Value)| (without_section(&key).to_owned(), value);
            let section: Dict = sections.into_iter().map(bare).collect();
            settings.insert(SECTION.trim_end_matches('.').to_owned(), Value::from(section));
        }
        Ok(Map::from([(Profile::Default, settings)]))
    }
}

/// Layers on top of each other.
#[derive(Debug, Default)]
pub(super) struct Layers(Figment);

impl Layers {
    /// Puts a layer on top.
    pub(super) fn add(&mut self, layer: Layer) -> Result<()> {
        self.0 = std::mem::take(&mut self.0).merge(layer.known()?);
        Ok(())
    }

    /// The topmost setting of `key`, if any layer has one.
    pub(super) fn get<T>(
        &self,
        key: &str,
        allowed: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        let Ok(value) = self.0.find_value(key) else {
            return Ok(None);
        };
        if let Some(setting) = text(&value).and_then(|text| read(text.trim())) {
            return Ok(Some(setting));
        }
        let metadata = self.0.get_metadata(value.tag());
        let origin = metadata.map_or_else(|| key.to_owned(), |from| from.interpolate(&Profile::Default, &[key]));
        let value = text(&value).unwrap_or_else(|| value.to_actual().to_string());
        Err(ConfigError::Value {
            origin,
            value,
            allowed: allowed.into(),
        })
    }
}

/// The text of a file. What is no plain file does not say how long it is.
fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let what = format!("at most {FILE_BYTES_MAX} bytes are read, and it has more");
        return Err(io::Error::new(ErrorKind::FileTooLarge, what));
    }
    String::from_utf8(bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

/// A single value as its text; nothing for lists and tables.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(text.clone()),
        Value::Char(_, letter) => Some(letter.to_string()),
        Value::Bool(_, switch) => Some(switch.to_string()),
        Value::Num(_, number) => (number.to_u128().map(|number| number.to_string()))
            .or_else(|| number.to_i128().map(|number| number.to_string()))
            .or_else(|| number.to_f64().map(|number| number.to_string())),
        Value::Empty(..) | Value::Dict(..) | Value::Array(..) => None,
    }
}

/// This process's variables that begin with [`PREFIX`].
pub(super) fn environment() -> Result<Vec<(String, String)>> {
    let ours = std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()));
    ours.map(|(name, text)| {
        let name = name.to_string_lossy().into_owned();
        text.into_string()
            .map(|text| (name.clone(), text))
            .map_err(|text| ConfigError::Value {
                origin: format!("environment variable {name}"),
                value: text.to_string_lossy().into_owned(),
                allowed: "text in UTF-8".into(),
            })
    })
    .collect()
}
