//! Which functions a script may call.
//!
//! Owns: the registry handed to DataFusion, and the lists of refused and of replaced functions.
//! Does not own: evaluating them. Invariants: no function here depends on a clock, a random source or
//! arrival order; `now()` and its synonyms read the batch's own clock, so that a replay sees the same time.

use super::suggest::nearest;
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, Volatility, WindowUDF};
use highwater_functions::clock::{BatchClock, ClockFunction};
use highwater_functions::ranks::signed;
use highwater_functions::windows::hop::Overlapping;
use highwater_functions::windows::tumble::Tumble;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Aggregates whose result depends only on the set of rows, and whose state merges.
const AGGREGATES: [&str; 44] = [
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
    "array_agg",
    "avg",
    "mean",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "first_value",
    "grouping",
    "last_value",
    "nth_value",
    "percentile_cont",
    "covar",
    "covar_pop",
    "covar_samp",
    "max",
    "median",
    "min",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "string_agg",
    "sum",
    "var",
    "var_pop",
    "var_population",
    "var_samp",
    "var_sample",
];

/// Other engines' names of aggregates, each with DataFusion's.
const SAME_AGGREGATES: [(&str, &str); 11] = [
    ("std", "stddev"),
    ("variance", "var_samp"),
    ("any", "bool_or"),
    ("some", "bool_or"),
    ("approx_percentile", "approx_percentile_cont"),
    ("percentile_approx", "approx_percentile_cont"),
    ("percentile", "percentile_cont"),
    ("approx_count_distinct", "approx_distinct"),
    ("collect_list", "array_agg"),
    ("listagg", "string_agg"),
    ("every", "bool_and"),
];

/// Other engines' names of scalar functions, each with DataFusion's.
const SAME_SCALARS: [(&str, &str); 10] = [
    ("sign", "signum"),
    ("startswith", "starts_with"),
    ("endswith", "ends_with"),
    ("sort_array", "array_sort"),
    ("to_base64", "base64"),
    ("truncate", "trunc"),
    ("rlike", "regexp_like"),
    ("regexp", "regexp_like"),
    ("timestamp_seconds", "to_timestamp_seconds"),
    ("timestamp_millis", "to_timestamp_millis"),
];

/// Scalar functions that would answer differently when a batch is replayed.
const VOLATILE: [&str; 6] = ["random", "rand", "uuid", "uuidv4", "uuidv7", "gen_random_uuid"];

/// Functions a script may call, by name.
#[derive(Debug)]
pub struct Functions {
    scalars: BTreeMap<String, Arc<ScalarUDF>>,
    aggregates: BTreeMap<String, Arc<AggregateUDF>>,
    refused_aggregates: BTreeSet<String>,
    windows: BTreeMap<String, Arc<WindowUDF>>,
}

/// The meaning of a called name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Scalar,
    Aggregate,
    /// A window function, which needs OVER.
    Window,
    /// A known function that this engine cannot run correctly, with the reason.
    Refused(&'static str),
    Unknown,
}

impl Functions {
    /// DataFusion's functions, with `now()` and its synonyms reading `clock`.
    pub fn new(clock: &BatchClock) -> Self {
        let mut scalars = BTreeMap::new();
        let builtin = SessionStateDefaults::default_scalar_functions();
        for function in builtin {
            if function.signature().volatility != Volatility::Volatile {
                register(&mut scalars, function);
            }
        }
        for function in highwater_functions::all() {
            register(&mut scalars, function);
        }
        // Names that DataFusion has keep DataFusion's meaning.
        for function in datafusion_spark::all_default_scalar_functions() {
            if function.signature().volatility == Volatility::Immutable && !scalars.contains_key(function.name()) {
                register(&mut scalars, function);
            }
        }
        for (name, known) in SAME_SCALARS {
            if let Some(function) = scalars.get(known).cloned() {
                scalars.insert(name.into(), function);
            }
        }
        for name in VOLATILE {
            scalars.remove(name);
        }
        for function in ClockFunction::all(clock) {
            let function = Arc::new(ScalarUDF::from(function));
            // Under every name, since DataFusion's own functions read the machine's clock.
            for name in function.aliases().iter().cloned().chain([function.name().to_string()]) {
                scalars.insert(name, function.clone());
            }
        }
        for function in Tumble::all() {
            register(&mut scalars, Arc::new(ScalarUDF::from(function)));
        }
        for function in Overlapping::all() {
            register(&mut scalars, Arc::new(ScalarUDF::from(function)));
        }
        let mut aggregates = BTreeMap::new();
        let mut refused_aggregates = BTreeSet::new();
        for function in SessionStateDefaults::default_aggregate_functions() {
            let names = function.aliases().iter().cloned().chain([function.name().to_string()]);
            for name in names {
                match AGGREGATES.contains(&name.as_str()) {
                    true => drop(aggregates.insert(name, function.clone())),
                    false => drop(refused_aggregates.insert(name)),
                }
            }
        }
        for function in highwater_functions::aggregates::all() {
            aggregates.insert(function.name().to_string(), function);
        }
        for (name, known) in SAME_AGGREGATES {
            if let Some(function) = aggregates.get(known).cloned() {
                aggregates.insert(name.to_string(), function);
            }
        }
        let mut windows = BTreeMap::new();
        for function in SessionStateDefaults::default_window_functions() {
            let function = signed(function);
            for name in function.aliases().iter().chain([&function.name().to_string()]) {
                windows.insert(name.clone(), function.clone());
            }
        }
        Self { scalars, aggregates, refused_aggregates, windows }
    }

    pub fn scalar(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.scalars.get(name).cloned()
    }

    pub fn window(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.windows.get(name).cloned()
    }

    /// Every window function's name.
    pub fn window_names(&self) -> Vec<String> {
        self.windows.keys().cloned().collect()
    }

    pub fn aggregate(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.aggregates.get(name).cloned()
    }

    /// Every scalar function's name, for DataFusion's own suggestions.
    pub fn scalar_names(&self) -> Vec<String> {
        self.scalars.keys().cloned().collect()
    }

    pub fn aggregate_names(&self) -> Vec<String> {
        self.aggregates.keys().cloned().collect()
    }

    /// Returns the meaning of calling `name` (lower case).
    pub fn verdict(&self, name: &str) -> Verdict {
        if self.aggregates.contains_key(name) {
            Verdict::Aggregate
        } else if self.scalars.contains_key(name) {
            Verdict::Scalar
        } else if VOLATILE.contains(&name) {
            Verdict::Refused(
                "it would give another value when a batch is replayed; random() and uuid() are derived from the record's position",
            )
        } else if self.refused_aggregates.contains(name) {
            Verdict::Refused("its result depends on the order of rows, and rows of different partitions have no order")
        } else if self.windows.contains_key(name) {
            Verdict::Window
        } else {
            Verdict::Unknown
        }
    }

    /// Returns the function with the nearest name; `None` if none is near.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        let visible = self.scalars.keys().filter(|known| !known.starts_with("hw_"));
        nearest(name, visible.chain(self.aggregates.keys()).map(String::as_str))
    }
}

fn register(scalars: &mut BTreeMap<String, Arc<ScalarUDF>>, function: Arc<ScalarUDF>) {
    for alias in function.aliases() {
        scalars.entry(alias.clone()).or_insert_with(|| function.clone());
    }
    scalars.insert(function.name().to_string(), function);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_volatile_function_but_the_clock() {
        let functions = Functions::new(&BatchClock::default());
        for (name, function) in &functions.scalars {
            let is_clock = highwater_functions::clock::is_clock(name);
            assert_eq!(is_clock, function.inner().is::<ClockFunction>(), "{name} reads another clock");
            assert!(is_clock || function.signature().volatility != Volatility::Volatile, "{name} is volatile");
            assert!(
                is_clock || function.signature().volatility != Volatility::Stable || name == "version",
                "{name} is stable: does it read a clock?"
            );
        }
    }

    #[test]
    fn everyday_names_of_spark_and_flink() {
        let functions = Functions::new(&BatchClock::default());
        let names = "date_format date_trunc hour minute second year month day dayofmonth dayofweek dayofyear quarter week \
            unix_timestamp from_unixtime to_timestamp to_timestamp_ltz to_date timestampdiff timestampadd date_add \
            date_sub datediff add_months last_day regexp_extract regexp_replace regexp_like split_index locate \
            substring substr instr lpad rpad trim ltrim rtrim btrim upper lower initcap concat concat_ws char_length \
            length reverse repeat replace left right split_part overlay translate ascii chr mod pmod power sqrt abs ceil floor round \
            trunc sign ln log10 exp greatest least coalesce nullif nvl ifnull if md5 sha224 sha256 sha512 sha1 sha2 crc32 \
            hex unhex base64 unbase64 encode decode parse_url url_decode url_encode json_value json_query json_exists \
            get_json_object cardinality array_contains array_length array_position array_distinct map_keys map_values \
            element_at size bit_count count sum avg min max stddev stddev_pop var_pop var_samp listagg string_agg \
            collect_list approx_count_distinct every bool_or corr";
        let unknown: Vec<&str> = names
            .split_whitespace()
            .filter(|name| matches!(functions.verdict(name), Verdict::Unknown | Verdict::Refused(_)))
            .collect();
        assert!(unknown.is_empty(), "unknown: {unknown:?}");
        // Java's patterns, not those of DataFusion's to_char, which has this alias.
        assert_eq!(functions.scalar("date_format").unwrap().name(), "date_format");
    }

    #[test]
    fn verdicts() {
        let functions = Functions::new(&BatchClock::default());
        assert_eq!(functions.verdict("upper"), Verdict::Scalar);
        assert_eq!(functions.verdict("count"), Verdict::Aggregate);
        assert!(matches!(functions.verdict("random"), Verdict::Refused(_)));
        assert_eq!(functions.verdict("first_value"), Verdict::Aggregate);
        assert_eq!(functions.verdict("row_number"), Verdict::Window);
        assert_eq!(functions.verdict("nope"), Verdict::Unknown);
        assert_eq!(functions.nearest("uper"), Some("upper"));
        assert_eq!(functions.nearest("coutn"), Some("count"));
    }
}
