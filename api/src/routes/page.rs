//! Room: pages of lists.
//! Takes: one item more than a page holds. Gives: the page and the cursor of the next one.
//! Never: counts a list.

use serde::Serialize;
use utoipa::ToSchema;

use crate::cursor::{Cursors, List, Place};
use crate::query::Limit;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// The items.
    pub(crate) data: Vec<T>,
    /// For the parameter `cursor` of the next page; null at the end of the list. A page may be short, even
    /// empty, and not be the last: go on while there is one.
    #[schema(required, example = "AQAAAAAAAAAAAAAAAAAAAAA…")]
    pub(crate) next_cursor: Option<String>,
}

/// All items of a list that has no pages.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Whole<T> {
    /// The items, oldest first.
    pub(crate) data: Vec<T>,
}

/// How many items to read for a page: one more shows that another page follows.
pub(crate) fn to_read(limit: Limit) -> u32 {
    limit.get().saturating_add(1)
}

impl<T> Page<T> {
    /// The page of what was read with [`to_read`].
    pub(crate) fn of<I, P: AsRef<[u8]>>(
        mut items: Vec<I>,
        limit: Limit,
        cursors: &Cursors,
        list: List,
        place: impl Fn(&I) -> P,
        show: impl Fn(I) -> T,
    ) -> Self {
        let size = usize::try_from(limit.get()).unwrap_or(usize::MAX);
        let more = items.len() > size;
        items.truncate(size);
        let last = items.last().filter(|_| more);
        let next_cursor = last.and_then(|item| cursors.write(list, place(item)));
        Self {
            data: items.into_iter().map(show).collect(),
            next_cursor,
        }
    }

    /// The same of a list that is not read to its end for every page: the next begins at `below`, when
    /// fewer items than asked for were found until there.
    pub(crate) fn up_to<I>(
        items: Vec<I>,
        below: Option<Place>,
        limit: Limit,
        cursors: &Cursors,
        list: List,
        place: impl Fn(&I) -> Place,
        show: impl Fn(I) -> T,
    ) -> Self {
        let mut page = Self::of(items, limit, cursors, list, place, show);
        if page.next_cursor.is_none() {
            page.next_cursor = below.and_then(|below| cursors.write(list, below));
        }
        page
    }
}
