//! SQL types and the Arrow types they stand for.
//!
//! Owns: parsing `ROW<…>`, `STRUCT<…>`, `ARRAY<…>`, `MAP<…>` and `T[]`, and the mapping of every type name.
//! Does not own: how values of a type look in JSON (connectors).
//! Invariant: a type without its own Arrow type is refused by name, never narrowed silently.

use super::error::{Result, SqlError};
use datafusion::arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, DataType as SqlType, ExactNumberInfo, Ident, ObjectName, TimezoneInfo,
};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Token};
use std::sync::Arc;

pub use highwater_expressions::type_name;

/// The zone of every `TIMESTAMP … WITH TIME ZONE` and `TIMESTAMP_LTZ`.
pub use highwater_functions::UTC;

const TYPES: &str = "BOOLEAN, TINYINT, SMALLINT, INT, BIGINT, FLOAT, DOUBLE, DECIMAL(p, s), STRING, VARCHAR, BYTES, \
     DATE, TIME, TIMESTAMP(p), TIMESTAMP_LTZ(p), ARRAY<T>, MAP<STRING, T>, ROW<name T, …>";

/// Folds a name as DataFusion's planner does: unquoted names become lower case.
pub fn fold(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// Parses one type, nested ones included.
pub fn parse_type(parser: &mut Parser) -> Result<DataType> {
    let mut reader = TypeReader { parser, open_closers: 0 };
    let location = reader.parser.peek_token_ref().span.start;
    let parsed = reader.read()?;
    match reader.open_closers {
        0 => Ok(parsed),
        _ => Err(SqlError::at(location, "this type has a '>' too many")),
    }
}

/// Reads types. `>>` is one token but closes two brackets; `open_closers` counts the `>` that are left for outer types.
struct TypeReader<'a, 'b> {
    parser: &'a mut Parser<'b>,
    open_closers: u8,
}

impl TypeReader<'_, '_> {
    fn read(&mut self) -> Result<DataType> {
        let start = self.parser.peek_token_ref().span.start;
        let word = match &self.parser.peek_token_ref().token {
            Token::Word(word) if word.quote_style.is_none() => word.value.to_lowercase(),
            _ => String::new(),
        };
        let opens = matches!(self.parser.peek_nth_token_ref(1).token, Token::Lt);
        let mut parsed = match word.as_str() {
            "row" | "struct" if opens => self.read_struct()?,
            "array" if opens => self.read_array()?,
            "row" | "struct" => {
                return Err(SqlError::at(start, format!("{} needs its fields", word.to_uppercase()))
                    .hint("write ROW<name TYPE, …>"));
            }
            "map" if opens => self.read_map(start)?,
            "map" => return Err(SqlError::at(start, "MAP needs its types").hint("write MAP<STRING, TYPE>")),
            "multiset" => {
                return Err(SqlError::at(start, "type MULTISET is not supported in streaming yet")
                    .hint("read it as STRING, or as MAP<STRING, BIGINT>"));
            }
            _ => to_arrow(&self.parser.parse_data_type()?, start)?,
        };
        while self.open_closers == 0 && self.parser.consume_token(&Token::LBracket) {
            self.parser.expect_token(&Token::RBracket)?;
            parsed = list_of(parsed);
        }
        Ok(parsed)
    }

    fn read_array(&mut self) -> Result<DataType> {
        self.open()?;
        let element = self.read()?;
        self.close()?;
        Ok(list_of(element))
    }

    fn read_map(&mut self, start: Location) -> Result<DataType> {
        self.open()?;
        let key = self.read()?;
        if key != DataType::Utf8 {
            return Err(SqlError::at(start, format!("keys of a MAP are STRING, not {}", type_name(&key)))
                .hint("a map is read from a JSON object, whose names are texts"));
        }
        self.parser.expect_token(&Token::Comma)?;
        let value = self.read()?;
        self.close()?;
        let fields = Fields::from(vec![Field::new("key", key, false), Field::new("value", value, true)]);
        Ok(DataType::Map(Arc::new(Field::new("entries", DataType::Struct(fields), false)), false))
    }

    fn read_struct(&mut self) -> Result<DataType> {
        self.open()?;
        let mut fields: Vec<Field> = Vec::new();
        loop {
            let location = self.parser.peek_token_ref().span.start;
            let name = self.parser.parse_identifier()?.value;
            let _ = self.parser.consume_token(&Token::Colon);
            if fields.iter().any(|field| *field.name() == name) {
                return Err(SqlError::at(location, format!("field '{name}' is declared twice")));
            }
            let data_type = self.read()?;
            fields.push(Field::new(name, data_type, true));
            if self.open_closers > 0 || !self.parser.consume_token(&Token::Comma) {
                break;
            }
        }
        self.close()?;
        Ok(DataType::Struct(Fields::from(fields)))
    }

    fn open(&mut self) -> Result<()> {
        self.parser.next_token();
        self.parser.expect_token(&Token::Lt)?;
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        if self.open_closers > 0 {
            self.open_closers -= 1;
            return Ok(());
        }
        if self.parser.consume_token(&Token::ShiftRight) {
            self.open_closers = 1;
            return Ok(());
        }
        self.parser.expect_token(&Token::Gt)?;
        Ok(())
    }
}

fn list_of(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(element, true)))
}

/// Returns the Arrow type of a type that the parser knows.
pub fn to_arrow(sql_type: &SqlType, location: Location) -> Result<DataType> {
    use SqlType as S;
    Ok(match sql_type {
        S::Boolean | S::Bool => DataType::Boolean,
        S::TinyInt(_) => DataType::Int8,
        S::SmallInt(_) | S::Int2(_) => DataType::Int16,
        S::Int(_) | S::Integer(_) | S::Int4(_) | S::MediumInt(_) => DataType::Int32,
        S::BigInt(_) | S::Int8(_) => DataType::Int64,
        S::Float(ExactNumberInfo::Precision(digits)) if *digits > 24 => DataType::Float64,
        S::Float(_) | S::Real | S::Float4 => DataType::Float32,
        S::Double(_) | S::DoublePrecision | S::Float8 => DataType::Float64,
        S::Decimal(info) | S::Numeric(info) | S::Dec(info) => decimal(*info, location)?,
        S::Char(_) | S::Character(_) | S::Varchar(_) | S::CharVarying(_) | S::CharacterVarying(_) => DataType::Utf8,
        S::Nvarchar(_) | S::Text | S::String(_) | S::Clob(_) => DataType::Utf8,
        S::Bytes(_) | S::Bytea | S::Binary(_) | S::Varbinary(_) | S::Blob(_) => DataType::Binary,
        S::Date => DataType::Date32,
        S::Time(precision, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => match precision.unwrap_or(6) {
            0..=3 => DataType::Time32(TimeUnit::Millisecond),
            4..=6 => DataType::Time64(TimeUnit::Microsecond),
            _ => DataType::Time64(TimeUnit::Nanosecond),
        },
        S::Timestamp(precision, zone) => {
            let zoned = matches!(zone, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz);
            timestamp(precision.unwrap_or(6), zoned, location)?
        }
        S::Datetime(precision) => timestamp(precision.unwrap_or(6), false, location)?,
        S::Array(ArrayElemTypeDef::AngleBracket(inner) | ArrayElemTypeDef::SquareBracket(inner, _)) => {
            list_of(to_arrow(inner, location)?)
        }
        S::Custom(name, modifiers) => custom(name, modifiers, location)?,
        other => return Err(unknown(&other.to_string(), location)),
    })
}

fn custom(name: &ObjectName, modifiers: &[String], location: Location) -> Result<DataType> {
    let text = name.to_string().to_lowercase();
    let precision = modifiers.first().and_then(|digits| digits.parse().ok()).unwrap_or(6);
    match text.as_str() {
        "timestamp_ltz" => timestamp(precision, true, location),
        "timestamp_ntz" => timestamp(precision, false, location),
        "long" => Ok(DataType::Int64),
        "short" => Ok(DataType::Int16),
        "byte" => Ok(DataType::Int8),
        _ => Err(unknown(&name.to_string(), location)),
    }
}

fn timestamp(precision: u64, zoned: bool, location: Location) -> Result<DataType> {
    let unit = match precision {
        0..=3 => TimeUnit::Millisecond,
        4..=6 => TimeUnit::Microsecond,
        7..=9 => TimeUnit::Nanosecond,
        more => {
            return Err(
                SqlError::at(location, format!("TIMESTAMP({more}) is finer than nanoseconds")).hint("use TIMESTAMP(3)")
            );
        }
    };
    Ok(DataType::Timestamp(unit, zoned.then(|| UTC.into())))
}

fn decimal(info: ExactNumberInfo, location: Location) -> Result<DataType> {
    let (precision, scale) = match info {
        ExactNumberInfo::None => (38, 10),
        ExactNumberInfo::Precision(precision) => (precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (precision, scale),
    };
    if !(1..=38).contains(&precision) || scale < 0 || scale as u64 > precision {
        return Err(SqlError::at(location, format!("DECIMAL({precision}, {scale}) is out of range"))
            .hint("precision is 1 to 38 digits, scale 0 to the precision"));
    }
    Ok(DataType::Decimal128(precision as u8, scale as i8))
}

fn unknown(name: &str, location: Location) -> SqlError {
    let names = TYPES.split(", ").map(|t| t.split(['(', '<']).next().unwrap_or(t));
    let near = super::suggest::nearest(name, names.filter(|n| !n.contains(')')));
    let hint = match near {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("types: {TYPES}"),
    };
    SqlError::at(location, format!("unknown type '{name}'")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::HighwaterDialect;

    fn parse(text: &str) -> Result<String> {
        let dialect = HighwaterDialect::default();
        let mut parser = Parser::new(&dialect).try_with_sql(text)?;
        parse_type(&mut parser).map(|t| type_name(&t))
    }

    #[test]
    fn every_type_of_the_contract() {
        for (text, name) in [
            ("INT", "INT"),
            ("bigint", "BIGINT"),
            ("DOUBLE PRECISION", "DOUBLE"),
            ("DECIMAL(10, 2)", "DECIMAL(10, 2)"),
            ("NUMERIC", "DECIMAL(38, 10)"),
            ("VARCHAR(20)", "STRING"),
            ("BYTES", "BYTES"),
            ("TIMESTAMP(3)", "TIMESTAMP(3)"),
            ("TIMESTAMP", "TIMESTAMP(6)"),
            ("TIMESTAMP(9)", "TIMESTAMP(9)"),
            ("TIMESTAMP(3) WITH TIME ZONE", "TIMESTAMP_LTZ(3)"),
            ("TIMESTAMP_LTZ(3)", "TIMESTAMP_LTZ(3)"),
            ("TIMESTAMP_LTZ", "TIMESTAMP_LTZ(6)"),
            ("TIMESTAMP WITHOUT TIME ZONE", "TIMESTAMP(6)"),
            ("DATE", "DATE"),
            ("TIME", "TIME(6)"),
            ("ARRAY<STRING>", "ARRAY<STRING>"),
            ("INT[]", "ARRAY<INT>"),
            ("ROW<a INT, b ARRAY<STRING>>", "ROW<a INT, b ARRAY<STRING>>"),
            ("STRUCT<a: INT, \"B\" STRING>[]", "ARRAY<ROW<a INT, B STRING>>"),
            ("ARRAY<ROW<a ARRAY<ARRAY<INT>>, c INT>>", "ARRAY<ROW<a ARRAY<ARRAY<INT>>, c INT>>"),
            ("MAP<STRING, ARRAY<INT>>", "MAP<STRING, ARRAY<INT>>"),
            ("ROW<copy INT, level TIMESTAMP(3)>", "ROW<copy INT, level TIMESTAMP(3)>"),
        ] {
            assert_eq!(parse(text).unwrap(), name, "{text}");
        }
    }

    #[test]
    fn bad_types_are_named() {
        for (text, message) in [
            ("STRIG", "line 1, column 1: unknown type 'STRIG'\n  hint: did you mean 'STRING'?"),
            ("TIMESTAMP(12)", "line 1, column 1: TIMESTAMP(12) is finer than nanoseconds\n  hint: use TIMESTAMP(3)"),
            ("ARRAY<INT>>", "line 1, column 1: this type has a '>' too many"),
            ("ROW<a INT, a INT>", "line 1, column 12: field 'a' is declared twice"),
            ("ROW", "line 1, column 1: ROW needs its fields\n  hint: write ROW<name TYPE, …>"),
            (
                "DECIMAL(50, 2)",
                "line 1, column 1: DECIMAL(50, 2) is out of range\n  hint: precision is 1 to 38 digits, scale 0 to the precision",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), message, "{text}");
        }
        assert!(parse("MAP<INT, INT>").unwrap_err().message.contains("keys of a MAP are STRING"));
        assert!(parse("MULTISET<INT>").unwrap_err().message.contains("MULTISET is not supported"));
    }
}
