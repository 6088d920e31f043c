//! What is kept on disk, so that a restart asks for nothing, and failures are remembered.
//!
//! ```text
//! CACHE/HOST_PATH-HASH/           one for each directory's URL
//!   lock                          held while an order is under way: several processes may share a cache
//!   account.pem, account.json     the account's key; its URL, and where the authority writes to
//!   state.json                    failures and orders of the account
//!   DOMAIN.pem, DOMAIN.json       the key and the chain; failures, and what the authority said of the renewal
//! ```
//!
//! Files are for their owner alone, and written beside their place and moved into it, so that each is whole, the old one or
//! the new one. What is damaged is told, and is as if it weren't there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::encoding;
use super::error::CacheError;
use super::jose::{AccountKey, sha256};
use crate::runtime::file_lock;
use crate::transport::{Certificate, Source, pem};

/// No file of a cache is longer; what is, isn't one.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What may be in the way of a file name is cut.
const NAME_BYTES_MAX: usize = 100;

/// The folder of one authority in a cache.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    directory: String,
}

/// Held by one process at a time.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "what matters is that it is open")] File);

/// An account that the authority knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Account {
    pub(super) url: String,
    #[serde(default)]
    pub(super) contact: Vec<String>,
}

/// What is remembered of the account, in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AccountState {
    /// In a row.
    #[serde(default)]
    pub(super) failures: u32,
    /// Until then nothing is asked for.
    #[serde(default)]
    pub(super) not_before: i64,
    /// When all orders that were sent are forgotten.
    #[serde(default)]
    pub(super) spent_until: i64,
}

/// What is remembered of a domain, in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DomainState {
    /// In a row.
    #[serde(default)]
    pub(super) failures: u32,
    /// Until then it isn't ordered.
    #[serde(default)]
    pub(super) not_before: i64,
}

impl Cache {
    /// The folder of this authority, made if it isn't there.
    ///
    /// # Errors
    /// It can't be made, or nothing can be written there.
    pub(super) fn open(root: &Path, directory: &str) -> Result<Self, CacheError> {
        let folder = root.join(folder_name(directory));
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&folder);
        made.map_err(|error| failed(&folder, "make", &error))?;
        let cache = Self { folder, directory: directory.to_owned() };
        cache.warn_if_open_to_others();
        try_writing(&cache.folder)?;
        Ok(cache)
    }

    /// Whether it could be opened; makes nothing that stays.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(super) fn check(root: &Path, directory: &str) -> Result<(), CacheError> {
        let folder = root.join(folder_name(directory));
        let there = folder.ancestors().find(|folder| folder.exists());
        // A relative path of one name has its folder before it, which is where the process is.
        try_writing(there.filter(|there| !there.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }

    fn warn_if_open_to_others(&self) {
        let mode = fs::metadata(&self.folder).map_or(0o700, |metadata| metadata.permissions().mode());
        if mode & 0o077 != 0 {
            log::warn!("{}: others may look into it, and private keys are there: chmod 700 it", self.folder.display());
        }
    }

    /// Has orders to itself; None while another process has.
    pub(super) fn lock(&self) -> Result<Option<Lock>, CacheError> {
        let path = self.folder.join("lock");
        let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = opened.map_err(|error| failed(&path, "open", &error))?;
        let locked = file_lock::try_lock(&file).map_err(|error| failed(&path, "lock", &error))?;
        Ok(locked.then_some(Lock(file)))
    }

    /// The account's key; None where there is none yet, or no sound one.
    pub(super) fn account_key(&self) -> Result<Option<AccountKey>, CacheError> {
        let path = self.folder.join("account.pem");
        let Some(text) = read(&path)? else { return Ok(None) };
        let key = pem::private_key(text.as_bytes()).ok().and_then(|pkcs8| AccountKey::from_pkcs8(&pkcs8));
        if key.is_none() {
            set_aside(&path, "it holds no key for an account");
        }
        Ok(key)
    }

    pub(super) fn keep_account_key(&self, pkcs8: &[u8]) -> Result<(), CacheError> {
        write(&self.folder.join("account.pem"), &encoding::pem("PRIVATE KEY", pkcs8))
    }

    /// The account; None where the authority hasn't told it yet.
    pub(super) fn account(&self) -> Result<Option<Account>, CacheError> {
        self.read_json("account.json")
    }

    pub(super) fn keep_account(&self, account: &Account) -> Result<(), CacheError> {
        self.write_json("account.json", account)
    }

    pub(super) fn forget_account(&self) -> Result<(), CacheError> {
        let path = self.folder.join("account.json");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path, "remove", &error)),
            _ => Ok(()),
        }
    }

    pub(super) fn account_state(&self) -> Result<AccountState, CacheError> {
        Ok(self.read_json("state.json")?.unwrap_or_default())
    }

    pub(super) fn keep_account_state(&self, state: AccountState) -> Result<(), CacheError> {
        self.write_json("state.json", &state)
    }

    pub(super) fn domain_state(&self, domain: &str) -> Result<DomainState, CacheError> {
        Ok(self.read_json(&format!("{domain}.json"))?.unwrap_or_default())
    }

    pub(super) fn keep_domain_state(&self, domain: &str, state: DomainState) -> Result<(), CacheError> {
        self.write_json(&format!("{domain}.json"), &state)
    }

    /// The certificate that was got for this domain; None where there is none, or no sound one.
    pub(super) fn certificate(&self, domain: &str) -> Result<Option<Certificate>, CacheError> {
        let path = self.folder.join(format!("{domain}.pem"));
        let Some(text) = read(&path)? else { return Ok(None) };
        match self.parse(domain, &text) {
            Ok(certificate) => Ok(Some(certificate)),
            Err(why) => {
                set_aside(&path, &why);
                Ok(None)
            }
        }
    }

    fn parse(&self, domain: &str, text: &str) -> Result<Certificate, String> {
        let chain = pem::certificates(text.as_bytes()).map_err(|error| error.to_string())?;
        let key = pem::private_key(text.as_bytes()).map_err(|error| error.to_string())?;
        let certificate = Certificate::of(chain, key, None).map_err(|error| error.to_string())?;
        if !certificate.covers(domain) {
            return Err(format!("its certificate isn't for {domain}"));
        }
        Ok(certificate.with_source(Source::Acme { directory: self.directory.clone() }))
    }

    /// Keeps a certificate, which is a chain in PEM, with its key: both in one file, since they are good together alone.
    pub(super) fn keep_certificate(&self, domain: &str, key_pkcs8: &[u8], chain: &str) -> Result<(), CacheError> {
        let text = encoding::pem("PRIVATE KEY", key_pkcs8) + chain;
        write(&self.folder.join(format!("{domain}.pem")), &text)
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, CacheError> {
        let path = self.folder.join(name);
        let Some(text) = read(&path)? else { return Ok(None) };
        match serde_json::from_str(&text) {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                set_aside(&path, &error.to_string());
                Ok(None)
            }
        }
    }

    fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), CacheError> {
        let path = self.folder.join(name);
        let text = serde_json::to_string(value).map_err(|error| failed(&path, "write", &io::Error::other(error)))?;
        write(&path, &(text + "\n"))
    }
}

/// Keeps what is damaged, which an operator may want to look at, out of the way.
fn set_aside(path: &Path, why: &str) {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".damaged");
    let moved = fs::rename(path, &aside);
    let where_to = if moved.is_ok() { "moved to" } else { "can't be moved to" };
    log::warn!(
        "{}: damaged, {where_to} {}, and made anew: {why}",
        path.display(),
        Path::new(&aside).file_name().unwrap_or_default().display()
    );
}

/// What a person recognises, and a hash that makes it unique.
fn folder_name(directory: &str) -> String {
    let bare = directory.strip_prefix("https://").unwrap_or(directory).trim_end_matches('/');
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let plain: String = bare.chars().map(|c| if is_plain(c) { c } else { '_' }).take(NAME_BYTES_MAX).collect();
    let hash = sha256(directory.as_bytes()).iter().take(4).fold(0_u32, |hash, &byte| hash << 8 | u32::from(byte));
    format!("{plain}-{hash:08x}")
}

fn try_writing(folder: &Path) -> Result<(), CacheError> {
    let path = beside(&folder.join("test"));
    let made = create(&path);
    let _ = fs::remove_file(&path);
    made.map(drop).map_err(|error| failed(folder, "write to", &error))
}

fn read(path: &Path) -> Result<Option<String>, CacheError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, "read", &error)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| failed(path, "read", &error))?;
    // What isn't UTF-8 is no sound file either, and is found to be none by whoever reads it.
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Writes a file beside its place, and moves it there.
fn write(path: &Path, text: &str) -> Result<(), CacheError> {
    let temporary = beside(path);
    let written = create(&temporary).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(failed(path, "write", &error));
    }
    // So that a power cut doesn't bring the old one back; it isn't worth a failure.
    if let Some(Ok(folder)) = path.parent().map(File::open) {
        let _ = folder.sync_all();
    }
    Ok(())
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// A name that no other thread or process has.
fn beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nth = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.{nth}", std::process::id()))
}

fn failed(path: &Path, doing: &'static str, error: &io::Error) -> CacheError {
    CacheError { path: path.to_owned(), doing, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Folder;
    use super::*;

    const DIRECTORY: &str = "https://acme.example/directory";

    fn opened(folder: &Folder) -> Cache {
        Cache::open(&folder.0.join("a/b"), DIRECTORY).expect("a cache")
    }

    fn sound(domain: &str) -> (Vec<u8>, String) {
        let made = rcgen::generate_simple_self_signed([domain.to_owned()]).expect("a certificate");
        (made.signing_key.serialize_der(), encoding::pem("CERTIFICATE", made.cert.der()))
    }

    #[test]
    fn each_authority_has_a_folder_of_its_own() {
        assert_eq!(folder_name(DIRECTORY), "acme.example_directory-4acecd1c");
        let others =
            ["https://acme.example/directory/", "http://acme.example/directory", "https://acme.example_directory"];
        assert!(others.iter().all(|other| folder_name(other) != folder_name(DIRECTORY)));
        let odd = folder_name(&format!("https://../../é\u{0}/{}", "x".repeat(4000)));
        assert!(!odd.contains('/') && odd.len() <= NAME_BYTES_MAX + 9, "{odd}");
    }

    #[test]
    fn an_account_that_can_not_be_forgotten_is_told_of_and_one_that_is_not_there_is_not() {
        let folder = Folder::new();
        let cache = opened(&folder);
        cache.forget_account().unwrap();
        fs::create_dir(cache.folder.join("account.json")).unwrap();
        let error = cache.forget_account().unwrap_err();
        assert!(error.to_string().contains("account.json"), "{error}");
    }

    #[test]
    fn what_is_kept_is_there_for_its_owner_alone_and_nothing_else_is_left() {
        let folder = Folder::new();
        let cache = opened(&folder);
        let (key, pkcs8) = AccountKey::generate().unwrap();
        cache.keep_account_key(&pkcs8).unwrap();
        let account = Account { url: "https://acme.example/1".into(), contact: vec!["mailto:a@b".into()] };
        cache.keep_account(&account).unwrap();
        let (pkcs8, chain) = sound("a.example");
        for _ in 0..2 {
            cache.keep_certificate("a.example", &pkcs8, &chain).unwrap();
        }
        let state = DomainState { failures: 2, not_before: 9 };
        cache.keep_domain_state("a.example", state).unwrap();
        let again = opened(&folder);
        assert_eq!(again.account_key().unwrap().map(|key| key.thumbprint()), Some(key.thumbprint()));
        assert_eq!(again.account().unwrap(), Some(account));
        assert_eq!(again.domain_state("a.example").unwrap(), state);
        let certificate = again.certificate("a.example").unwrap().expect("it");
        assert_eq!(certificate.source(), &Source::Acme { directory: DIRECTORY.into() });
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&again.folder), 0o700);
        let files: Vec<PathBuf> = fs::read_dir(&again.folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 4, "{files:?}");
        assert!(files.iter().all(|file| mode(file) == 0o600), "{files:?}");
        again.forget_account().unwrap();
        again.forget_account().unwrap();
        assert_eq!(again.account().unwrap(), None);
    }

    #[test]
    fn what_is_damaged_is_set_aside_and_is_as_if_it_were_not_there() {
        let folder = Folder::new();
        let cache = opened(&folder);
        let (key, chain) = sound("b.example");
        let of_another = encoding::pem("PRIVATE KEY", &sound("a.example").0) + &chain;
        let of_other_name = encoding::pem("PRIVATE KEY", &key) + &chain;
        for damaged in ["", "\u{0}", "{", "-----BEGIN PRIVATE KEY-----\nAA", &of_another, &of_other_name] {
            for name in ["account.pem", "account.json", "state.json", "a.example.pem", "a.example.json"] {
                fs::write(cache.folder.join(name), damaged).unwrap();
            }
            fs::write(cache.folder.join("lock"), [0xff, 0xfe]).unwrap();
            assert!(cache.certificate("a.example").unwrap().is_none(), "{damaged}");
            assert_eq!(cache.account().unwrap(), None);
            assert_eq!(cache.account_state().unwrap(), AccountState::default());
            assert_eq!(cache.domain_state("a.example").unwrap(), DomainState::default());
            if damaged != of_another && damaged != of_other_name {
                assert!(cache.account_key().unwrap().is_none(), "{damaged}");
            }
            assert!(
                !cache.folder.join("a.example.pem").exists() && cache.folder.join("a.example.pem.damaged").exists()
            );
            assert!(cache.lock().unwrap().is_some());
        }
        fs::write(cache.folder.join("account.json"), [0xff, 0xfe]).unwrap();
        assert_eq!(cache.account().unwrap(), None);
    }

    #[test]
    fn one_process_at_a_time_orders() {
        let folder = Folder::new();
        let (one, other) = (opened(&folder), opened(&folder));
        let held = one.lock().unwrap().expect("the first has it");
        assert!(other.lock().unwrap().is_none());
        drop(held);
        assert!(other.lock().unwrap().is_some());
    }

    #[test]
    fn a_cache_that_can_not_be_written_is_an_error_with_its_place() {
        let folder = Folder::new();
        fs::create_dir_all(&folder.0).unwrap();
        let file = folder.0.join("file");
        fs::write(&file, "").unwrap();
        let (of_open, of_check) = (Cache::open(&file, DIRECTORY).map(drop), Cache::check(&file, DIRECTORY));
        for error in [of_open, of_check].map(|result| result.unwrap_err().to_string()) {
            assert!(
                error.starts_with("can't ") && error.contains("file") && error.contains("ot a directory"),
                "{error}"
            );
        }
        let fresh = folder.0.join("c/d");
        Cache::check(&fresh, DIRECTORY).expect("it could be made");
        assert!(!folder.0.join("c").exists(), "a check makes nothing");
    }
}
