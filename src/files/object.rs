//! Blobs: `az://`, `s3://` and `gs://` as files that are listed and read.
//!
//! Owns the connection to a store, listing only what is wanted, and one policy of retries: every request is tried again with a growing
//! pause, up to a cap, and then fails with the blob's name and what to do. How a blob's bytes come is [`download`]'s. Credentials are
//! `object_store`'s business, by its usual environment variables; TLS and signatures are OpenSSL's, which is linked anyway.

mod crypto;
mod download;

use super::list::is_wanted;
use super::window::{Selection, is_listed_whole};
use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, RetryConfig};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

pub(super) use download::Download;

/// What is fetched at once, in bytes.
const PART: u64 = 1 << 20;
/// Parts of all blobs together that are fetched ahead; each blob that is open has one more of its own, and one being read.
const AHEAD_OF_ALL: usize = 64;
/// Parts of one blob that are under way at once.
const AHEAD_OF_ONE: usize = 8;

/// How often and how long a request is tried.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Times in all.
    pub attempts: u32,
    /// The pause after the first; each next one is twice as long.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
}

impl Default for Retry {
    /// Eight times within about half a minute.
    fn default() -> Self {
        Retry { attempts: 8, first: Duration::from_millis(250), longest: Duration::from_secs(10) }
    }
}

/// Why a blob, or a listing, can't be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ObjectError {
    /// The address is not one of a store.
    #[error(
        "{url}: {reason}; addresses are az://CONTAINER/PREFIX (also abfss://, https://ACCOUNT.blob.core.windows.net/CONTAINER), s3://BUCKET/PREFIX, gs://BUCKET/PREFIX"
    )]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It was there when the store was listed, and is no more.
    #[error(
        "{name} has vanished while it was read: a lifecycle rule, or someone, deleted it. What of it was not read is lost to the baseline"
    )]
    Gone {
        /// The blob.
        name: String,
    },
    /// Tried again and again.
    #[error("{name} can't be read, tried {attempts} times: {reason}. {hint}")]
    Refused {
        /// The blob or prefix.
        name: String,
        /// How often.
        attempts: u32,
        /// What was said last.
        reason: String,
        /// What to do.
        hint: &'static str,
        /// There is nothing of that name.
        missing: bool,
    },
}

/// A container or bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    store: Arc<dyn ObjectStore>,
    /// `az://container`.
    shown: String,
    runtime: Runtime,
    ahead: Arc<Semaphore>,
    retry: Retry,
}

/// A blob, as long as it was when it was listed.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) bucket: Arc<Bucket>,
    path: Path,
    pub(super) size: u64,
}

impl Object {
    /// As it is shown, and named in positions.
    pub(super) fn name(&self) -> String {
        self.bucket.name(&self.path)
    }

    /// Its bytes from `from` on; fetching begins at once.
    pub(super) fn read(&self, from: u64) -> Download {
        Download::begin(self.clone(), from)
    }
}

/// Whether the text is an address of an object store.
pub(super) fn is_url(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(scheme, _)| !scheme.is_empty() && scheme != "file" && scheme.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Opens the container of an address; the rest of the address is the prefix. Nothing is asked of the network.
pub(super) fn open(url: &str, retry: Retry) -> Result<(Arc<Bucket>, Path), ObjectError> {
    let address = |reason: String| ObjectError::Address { url: url.to_owned(), reason };
    let parsed = url::Url::parse(url).map_err(|error| address(error.to_string()))?;
    let (scheme, path) = object_store::ObjectStoreScheme::parse(&parsed).map_err(|error| address(error.to_string()))?;
    let once = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let crypto = Arc::new(crypto::OpenSsl);
    let store: object_store::Result<Arc<dyn ObjectStore>> = match scheme {
        object_store::ObjectStoreScheme::MicrosoftAzure => object_store::azure::MicrosoftAzureBuilder::from_env()
            .with_url(url)
            .with_crypto_provider(crypto)
            .with_retry(once)
            .build()
            .map(|store| Arc::new(store) as _),
        object_store::ObjectStoreScheme::AmazonS3 => object_store::aws::AmazonS3Builder::from_env()
            .with_url(url)
            .with_crypto_provider(crypto)
            .with_retry(once)
            .build()
            .map(|store| Arc::new(store) as _),
        object_store::ObjectStoreScheme::GoogleCloudStorage => object_store::gcp::GoogleCloudStorageBuilder::from_env()
            .with_url(url)
            .with_crypto_provider(crypto)
            .with_retry(once)
            .build()
            .map(|store| Arc::new(store) as _),
        other => return Err(address(format!("{other:?} is not supported"))),
    };
    let store = store.map_err(|error| address(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("fetch")
        .enable_all()
        .build()
        .map_err(|error| address(error.to_string()))?;
    let shown = shown(url, &path);
    let bucket = Bucket { store, shown, runtime, ahead: Arc::new(Semaphore::new(AHEAD_OF_ALL)), retry };
    Ok((Arc::new(bucket), path))
}

/// The address without the prefix.
fn shown(url: &str, prefix: &Path) -> String {
    let url = url.split(['?', '#']).next().unwrap_or(url).trim_end_matches('/');
    url.strip_suffix(prefix.as_ref()).unwrap_or(url).trim_end_matches('/').to_owned()
}

impl Bucket {
    fn name(&self, path: &Path) -> String {
        format!("{}/{path}", self.shown)
    }

    /// All blobs below the prefix that may hold something that is wanted, in the order of their names.
    pub(super) fn list(self: &Arc<Self>, prefix: &Path, selection: &Selection) -> Result<Vec<Object>, ObjectError> {
        let mut found = self.runtime.block_on(self.walk(prefix.clone(), selection))?;
        found.sort_by(|a, b| a.path.as_ref().cmp(b.path.as_ref()));
        Ok(found)
    }

    async fn walk(self: &Arc<Self>, prefix: Path, selection: &Selection) -> Result<Vec<Object>, ObjectError> {
        let (mut found, mut left) = (Vec::new(), vec![prefix]);
        while let Some(prefix) = left.pop() {
            let name = self.name(&prefix);
            let under = Some(&prefix).filter(|prefix| !prefix.as_ref().is_empty());
            let step = under.is_none() || !is_listed_whole(prefix.as_ref());
            let objects = if step {
                let listed = self.retried(&name, || async move { self.store.list_with_delimiter(under).await }).await?;
                left.extend(listed.common_prefixes.into_iter().filter(|prefix| selection.wants(prefix.as_ref())));
                listed.objects
            } else {
                self.retried(&name, || async move { self.store.list(under).try_collect::<Vec<_>>().await }).await?
            };
            let wanted = objects.into_iter().filter(|meta| is_wanted(meta.location.as_ref()) && selection.wants(meta.location.as_ref()));
            found.extend(wanted.map(|meta| Object { bucket: Arc::clone(self), path: meta.location, size: meta.size }));
        }
        Ok(found)
    }

    /// The blob of exactly this name.
    pub(super) fn blob(self: &Arc<Self>, path: &Path) -> Result<Object, ObjectError> {
        let store = &self.store;
        let meta = self.runtime.block_on(self.retried(&self.name(path), || async move { store.head(path).await }))?;
        Ok(Object { bucket: Arc::clone(self), path: meta.location, size: meta.size })
    }

    /// Asks until there is an answer, or enough is enough.
    async fn retried<T, F: Future<Output = object_store::Result<T>>>(&self, name: &str, ask: impl Fn() -> F) -> Result<T, ObjectError> {
        let mut pause = self.retry.first;
        let mut attempts = 0;
        loop {
            let error = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            attempts += 1;
            if attempts >= self.retry.attempts || is_missing(&error) {
                return Err(refused(name, attempts, &error));
            }
            tracing::debug!(name, attempts, %error, "storage did not answer; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.retry.longest);
        }
    }

    async fn part(&self, path: &Path, from: u64, to: u64) -> Result<bytes::Bytes, ObjectError> {
        let gone = || Err(object_store::Error::NotFound { path: path.to_string(), source: "it has become shorter".into() });
        let name = self.name(path);
        let part = self.retried(&name, || async move {
            match self.store.get_range(path, from..to).await {
                Ok(bytes) if bytes.len() as u64 == to - from => Ok(bytes),
                Ok(_) => gone(),
                Err(error) => Err(error),
            }
        });
        part.await.map_err(|error| match error {
            ObjectError::Refused { missing: true, .. } => ObjectError::Gone { name },
            other => other,
        })
    }
}

fn is_missing(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. }) || error.to_string().contains("404 Not Found")
}

fn refused(name: &str, attempts: u32, error: &object_store::Error) -> ObjectError {
    use object_store::Error as E;
    // A listing of a container that is not there is told by its text alone.
    let missing = is_missing(error);
    let hint = match error {
        _ if missing => "There is no container, prefix or blob of that name: check the address and the account",
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
            "Check the credentials in the environment (AZURE_STORAGE_…, AWS_…, GOOGLE_…) and that they may list and read here (on Azure: Storage Blob Data Reader), then start again: it goes on where it stopped"
        }
        _ if error.to_string().contains("429") || error.to_string().contains("503") => {
            "The store limits requests: start again later, it goes on where it stopped"
        }
        _ => "Check the network and the store, then start again: it goes on where it stopped",
    };
    ObjectError::Refused { name: name.to_owned(), attempts, reason: error.to_string().replace('\n', " "), hint, missing }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_paths() {
        for (text, is) in [("az://c/p", true), ("s3://b", true), ("file:///x", false), ("/a/b", false), ("a:b", false), ("-", false)] {
            assert_eq!(is_url(text), is, "{text}");
        }
        for (url, path, expected) in [
            ("az://c/a/b", "a/b", "az://c"),
            ("az://c", "", "az://c"),
            ("az://c/", "", "az://c"),
            ("https://acct.blob.core.windows.net/c/a", "a", "https://acct.blob.core.windows.net/c"),
        ] {
            assert_eq!(shown(url, &Path::parse(path).unwrap()), expected, "{url}");
        }
        let error = open("ftp://x/y", Retry::default()).unwrap_err();
        assert!(error.to_string().contains("addresses are az://"), "{error}");
    }
}
