//! The tables of options in docs/connectors.md.
//!
//! Owns: their text, generated from the declarations. Invariant: the page contains exactly this text; a test compares.

use crate::spec::{ConnectorSpec, Default, OptionSpec, Use};
use std::fmt::Write;

/// Returns the options of a connector as a table in Markdown.
pub fn table(spec: &ConnectorSpec) -> String {
    let several = spec.uses.len() > 1;
    let of = |uses: &[Use]| match several {
        true => format!(" {} |", uses.iter().map(|one| word(*one)).collect::<Vec<_>>().join(", ")),
        false => String::new(),
    };
    let mut text = String::from("| option | what it is | values | default |");
    text.push_str(if several { " of |\n|---|---|---|---|---|\n" } else { "\n|---|---|---|---|\n" });
    for option in spec.options {
        let OptionSpec { name, about, kind, uses, .. } = option;
        let default = default(&option.default);
        // Writing into a string never fails.
        let _ = writeln!(text, "| `{name}` | {about} | {} | {default} |{}", kind.values(), of(uses));
    }
    if let Some(properties) = spec.properties {
        let _ =
            writeln!(text, "| `{}<property>` | {} | | none |{}", properties.prefix, properties.about, of(spec.uses));
    }
    text
}

fn default(default: &Default) -> String {
    match default {
        Default::Required(_) => "required".into(),
        Default::Value(value) => format!("`{value}`"),
        Default::None(word) => (*word).into(),
    }
}

fn word(one: Use) -> &'static str {
    match one {
        Use::Source => "source",
        Use::Sink => "sink",
        Use::Lookup => "lookup",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CONNECTORS;

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/connectors.md");

    /// Returns the page with its tables replaced by generated ones.
    fn made(page: &str) -> String {
        let mut made = page.to_string();
        for spec in CONNECTORS.iter().filter(|spec| !spec.options.is_empty()) {
            let (start, end) = (format!("<!-- options of {} -->\n", spec.name), "<!-- end of options -->");
            let missing = || panic!("docs/connectors.md lacks the lines '{}' and '{end}'", start.trim());
            let from = made.find(&start).unwrap_or_else(missing) + start.len();
            let to = from + made[from..].find(end).unwrap_or_else(missing);
            made.replace_range(from..to, &format!("\n{}\n", table(spec)));
        }
        made
    }

    #[test]
    fn the_page_has_every_option_as_it_is_declared() {
        let page = std::fs::read_to_string(PAGE).unwrap();
        let made = made(&page);
        if made == page {
            return;
        }
        if std::env::var_os("HIGHWATER_UPDATE_DOCS").is_some() {
            // Renamed, since another test may read the page.
            let new = format!("{PAGE}.new");
            std::fs::write(&new, made).unwrap();
            return std::fs::rename(new, PAGE).unwrap();
        }
        let differs = |(made, page): &(&str, &str)| made != page;
        let line = made.lines().zip(page.lines()).find(differs);
        panic!(
            "docs/connectors.md differs from the declarations, first here (generated, page): {line:#?}\nRegenerate it: \
             HIGHWATER_UPDATE_DOCS=1 cargo test -p highwater-connector-spec docs"
        );
    }

    #[test]
    fn every_property_is_on_the_page() {
        let page = std::fs::read_to_string(PAGE).unwrap();
        for properties in CONNECTORS.iter().filter_map(|spec| spec.properties) {
            for (property, _) in properties.known {
                assert!(page.contains(&format!("`{property}`")), "{property} is not in docs/connectors.md");
            }
        }
    }
}
