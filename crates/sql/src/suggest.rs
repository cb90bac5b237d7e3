//! Near-miss names: what a misspelt table, column, function, option or key probably meant.
//!
//! Owns: the largest distance of a suggestion. Does not own: the lists of names.

use super::error::SqlError;

/// Returns the nearest of `candidates`; `None` if none is near enough to be a typo.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = name.to_lowercase();
    let squashed = squash(&wanted);
    candidates
        .into_iter()
        .map(|candidate| {
            let lower = candidate.to_lowercase();
            let edits = strsim::damerau_levenshtein(&wanted, &lower);
            // `max_records_persecond` and `maxRecordsPerSecond` are the same words.
            let distance = if squash(&lower) == squashed { 0 } else { edits };
            (distance, candidate)
        })
        .filter(|(distance, candidate)| {
            let length = wanted.chars().count().max(candidate.chars().count());
            *distance <= (length / 3).clamp(1, 4) && *distance < length
        })
        .min_by_key(|(distance, candidate)| (*distance, *candidate))
        .map(|(_, candidate)| candidate)
}

/// Returns `did you mean 'x'?`, or the candidates if none is near (of more than 24, the first 16). `None` without any.
pub fn did_you_mean<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str> + Clone,
    what: &str,
) -> Option<String> {
    if let Some(near) = nearest(name, candidates.clone()) {
        return Some(format!("did you mean '{near}'?"));
    }
    let all: Vec<&str> = candidates.into_iter().collect();
    match all.len() {
        0 => None,
        1..=24 => Some(format!("{what}: {}", all.join(", "))),
        more => Some(format!("{what}: {}, … ({more} in all)", all[..16].join(", "))),
    }
}

impl SqlError {
    /// Adds the hint of [`did_you_mean`].
    pub fn suggest<'a>(self, name: &str, candidates: impl IntoIterator<Item = &'a str> + Clone, what: &str) -> Self {
        let hint = did_you_mean(name, candidates, what);
        self.maybe_hint(hint)
    }
}

fn squash(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '.' | '-')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_found_and_a_stranger_is_not() {
        assert_eq!(nearest("ordrs", ["orders", "clicks"]), Some("orders"));
        assert_eq!(nearest("Orders", ["orders", "clicks"]), Some("orders"));
        assert_eq!(nearest("maxoffsetspertrigger", ["max_offsets_per_trigger"]), Some("max_offsets_per_trigger"));
        assert_eq!(nearest("zzz", ["orders", "clicks"]), None);
        assert_eq!(nearest("a", ["b"]), None);
    }

    #[test]
    fn without_a_near_name_the_list_is_shown() {
        assert_eq!(did_you_mean("zzz", ["a1", "b1"], "tables").as_deref(), Some("tables: a1, b1"));
        assert_eq!(did_you_mean("zzz", [], "tables"), None);
    }
}
