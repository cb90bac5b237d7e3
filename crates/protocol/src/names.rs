//! Near-miss suggestions for mistyped names.

/// Returns the candidate most similar to `name`; `None` if none is similar enough to be what was meant.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = name.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn suggests_a_similar_name_and_no_unrelated_one() {
        assert_eq!(nearest("ordres", ["orders", "payments"]), Some("orders"));
        assert_eq!(nearest("zzz", ["orders", "payments"]), None);
    }
}
