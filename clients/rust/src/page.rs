//! Lists that come in pages.

use std::pin::Pin;

use async_stream::try_stream;
use futures_core::Stream;

use crate::error::Result;

/// What [`IntoFuture`](std::future::IntoFuture) makes of a builder.
pub type Call<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// All entries of a list, asked for page by page.
pub type Entries<T> = Pin<Box<dyn Stream<Item = Result<T>> + Send>>;

/// One page of a list.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Page<T> {
    /// Its entries, newest first.
    pub entries: Vec<T>,
    /// Where the next page begins. None: this was the last.
    pub next_page_token: Option<String>,
}

impl<T> Page<T> {
    pub(crate) fn new(entries: Vec<T>, token: String) -> Self {
        Self { entries, next_page_token: Some(token).filter(|token| !token.is_empty()) }
    }
}

/// A list that can be asked for from any of its pages on.
pub(crate) trait Paged: Send + Sync + 'static {
    type Entry: Send + 'static;

    /// The page that begins at a token; None is the first.
    fn page(&self, token: Option<String>) -> impl Future<Output = Result<Page<Self::Entry>>> + Send;
}

/// All entries, from a token on.
pub(crate) fn entries<L: Paged>(list: L, first: Option<String>) -> Entries<L::Entry> {
    Box::pin(try_stream! {
        let mut token = first;
        loop {
            let page = list.page(token).await?;
            for entry in page.entries {
                yield entry;
            }
            token = page.next_page_token;
            if token.is_none() {
                return;
            }
        }
    })
}
