//! Errors of the parser without the secrets of the script.
//!
//! Owns: deciding if the token at which the parser failed may be quoted. Does not own: values of parsed options (`values`).
//! Invariant: in a statement that sets an option which may be secret, no error of the parser quotes anything but keywords,
//! punctuation and the names of options: a text at the wrong place, or a piece of one with a wrong quote, may be a secret.

use super::dialect::HighwaterDialect;
use super::error::SqlError;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use highwater_connector_spec::may_hide_secret;

const HIDDEN: &str = "a value (not shown: it may be a secret)";

/// Returns the parser's `error` about `script` without values that may be secrets.
pub fn without_secrets(script: &str, error: SqlError) -> SqlError {
    let Ok(tokens) = Tokenizer::new(&HighwaterDialect::default(), script).tokenize_with_location() else {
        return error;
    };
    let is_code = |token: &&TokenWithSpan| !matches!(token.token, Token::Whitespace(_));
    let tokens: Vec<&TokenWithSpan> = tokens.iter().filter(is_code).collect();
    let Some(place) = tokens.iter().position(|token| token.span.start == error.location()) else { return error };
    let start = tokens[..place].iter().rposition(|token| token.token == Token::SemiColon).map_or(0, |at| at + 1);
    let sets_secret = tokens[start..=place].iter().any(|token| may_hide_secret(&token.token.to_string()));
    let is_value = is_value(&tokens[place].token, tokens.get(place + 1).map(|next| &next.token));
    if sets_secret && is_value { hide(error, &tokens[place].token.to_string()) } else { error }
}

fn is_value(found: &Token, next: Option<&Token>) -> bool {
    match found {
        Token::EOF => false,
        Token::Word(word) => word.quote_style.is_some() || word.keyword == Keyword::NoKeyword,
        // `'name' =` is an option's name; the comma before it is missing.
        Token::SingleQuotedString(text) => next != Some(&Token::Eq) || text.contains(char::is_whitespace),
        other => other.to_string().contains(char::is_alphanumeric),
    }
}

fn hide(mut error: SqlError, found: &str) -> SqlError {
    let inner = found.trim_matches(['\'', '"', '`']);
    error.message = error.message.replace(found, HIDDEN);
    if error.message.contains(inner) {
        error.message = format!("did not expect {HIDDEN} here");
    }
    error.hint = error.hint.filter(|hint| !hint.contains(inner));
    error
}

#[cfg(test)]
mod tests {
    use crate::script::parse_script;

    /// The error of a table with these options.
    fn error(options: &str) -> String {
        parse_script(&format!("CREATE TABLE t (a INT) WITH ({options}); INSERT INTO o SELECT a FROM t"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_misplaced_secret_is_not_quoted() {
        let wrong = [
            "'kafka.sasl.password' 'hunter2'",
            "'kafka.sasl.password' = 'x' 'hunter2'",
            "'topic' = 't', 'kafka.sasl.password' = \"hunter2\"",
            "'kafka.sasl.password' = = 'x', hunter2 = 'y'",
            "'kafka.sasl.password' = 'x', hunter2",
            "'kafka.sasl.password = 'hunter2'",
            "'kafka.sasl.password' = 'x', e'hunter2'",
            "'kafka.sasl.password' : 'hunter2'",
            "'kafka.sasl.password' = 'x'), 'hunter2'",
        ];
        for options in wrong {
            let error = error(options);
            assert!(!error.contains("hunter2"), "{options}: {error}");
            assert!(error.starts_with("line 1, column "), "{options}: {error}");
        }
    }

    #[test]
    fn what_is_no_secret_is_quoted() {
        let error_text = error("'topic' = 't' 'kafka.sasl.password' = 'x'");
        assert!(error_text.contains("found 'kafka.sasl.password'"), "{error_text}");
        assert!(error("'topic' 't'").contains("found 't'"));
    }
}
