//! What mutation testing breaks, see `tools/mutation/main.rs`: the exact mutants of small texts, and the kernels that
//! they count for.

/// All that the report and the list of survivors need of it.
mod compiler {
    pub type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;
}
#[path = "../tools/mutation/changes.rs"]
#[allow(dead_code)]
mod changes;
#[path = "../tools/mutation/kernels.rs"]
mod kernels;
#[path = "../tools/mutation/mutants.rs"]
mod mutants;
#[path = "../tools/mutation/report.rs"]
#[allow(dead_code)]
mod report;
#[path = "../tools/mutation/survivors.rs"]
#[allow(dead_code)]
mod survivors;

use changes::Changes;
use kernels::Kernels;
use report::{ENDLESS, Fate, Report, WHEN_CHECKED};
use std::collections::{BTreeMap, BTreeSet};

/// What the mutants make of a text's only line.
fn of(line: &str) -> Vec<String> {
    mutants::mutants("some.cu", line).into_iter().map(|mutant| mutant.mutated).collect()
}

#[test]
fn the_lines_that_a_change_adds_are_found_and_those_that_it_only_takes_away_are_not() {
    let diff = "diff --git a/kernels/conv.cu b/kernels/conv.cu\n--- a/kernels/conv.cu\n+++ b/kernels/conv.cu\n\
                @@ -17,0 +18 @@ constexpr int SIDE = 16;\n+one\n@@ -67 +69,5 @@ float4 x\n-was\n+a\n+b\n+c\n+d\n+e\n\
                @@ -90,2 +95,0 @@ void y\n-gone\n-gone\n";
    let changes = Changes::of_diff(diff);
    let touched: Vec<usize> = (1..120).filter(|&line| changes.touch("conv.cu", line..line + 1)).collect();
    assert_eq!(touched, [18, 69, 70, 71, 72, 73]);
    assert!(changes.touch("conv.cu", 60..70) && !changes.touch("conv.cu", 60..69) && !changes.touch("x.cu", 18..19));
}

#[test]
fn a_mutant_knows_the_lines_that_it_touches() {
    let text = "int a = 0;\nbool both = a > 0 &&\n    a < 9;\n";
    let touched: Vec<_> = mutants::mutants("some.cu", text).iter().map(|mutant| mutant.lines(text)).collect();
    // Each side of the conjunction is left out over both lines; the comparisons are moved on their own.
    assert!(touched.contains(&(2..4)) && touched.contains(&(2..3)) && touched.contains(&(3..4)), "{touched:?}");
}

#[test]
fn a_bound_check_is_moved_by_one_and_removed() {
    assert_eq!(of("if (i >= length) return;"), ["if (false) return;", "if (i > length) return;"]);
    assert_eq!(of("if (i < length) y[i] = 0;"), ["if (true) y[i] = 0;", "if (i <= length) y[i] = 0;"]);
}

#[test]
fn each_side_of_a_conjunction_is_left_out() {
    let mutants = of("bool valid = exists && row >= 0;");
    assert_eq!(mutants, ["bool valid = exists;", "bool valid = row >= 0;", "bool valid = exists && row > 0;"]);
}

#[test]
fn a_choice_is_made_both_ways() {
    assert_eq!(of("y = backward ? a : b;"), ["y = true ? a : b;", "y = false ? a : b;"]);
}

#[test]
fn a_clamp_is_left_to_either_side() {
    assert_eq!(of("int end = min(start + part, area);").len(), 3);
    assert_eq!(of("int end = min(start, area);"), ["int end = (start);", "int end = (area);"]);
}

#[test]
fn barriers_and_waits_are_removed_and_waits_come_a_group_early() {
    assert_eq!(of("__syncthreads();"), [";"]);
    assert_eq!(of("wait_for_launches_before();"), [";"]);
    assert_eq!(of("cp_async_commit();"), [";"]);
    assert_eq!(of("cp_async_wait<2>();"), [";", "cp_async_wait<2 + 1>();"]);
}

#[test]
fn loops_start_later_and_step_further_and_what_is_halved_starts_at_half() {
    let mutants = of("for (int i = 0; i < 4; i++) {");
    assert_eq!(
        mutants,
        ["for (int i = 0 + 1; i < 4; i++) {", "for (int i = 0; i <= 4; i++) {", "for (int i = 0; i < 4; i += 2) {"]
    );
    let mutants = of("for (int d = 16; d > 0; d /= 2) v += s(v, d);");
    assert_eq!(mutants[0], "for (int d = (16) / 2; d > 0; d /= 2) v += s(v, d);");
    assert_eq!(mutants[2], "for (int d = 16; d > 0; d /= 2 * (2)) v += s(v, d);");
    assert_eq!(
        mutants[3..],
        ["for (int d = 16; d > 0; d /= 2) v = s(v, d);", "for (int d = 16; d > 0; d /= 2) v -= s(v, d);"]
    );
}

#[test]
fn operators_change_and_types_and_templates_stay() {
    assert_eq!(of("int k = at * g.stride;"), ["int k = at + g.stride;"]);
    assert_eq!(of("int k = at % 4;"), ["int k = at / 4;"]);
    assert_eq!(of("int k = chunk ^ swizzle;"), ["int k = chunk;", "int k = chunk | swizzle;"]);
    assert_eq!(of("const float* p = static_cast<const float*>(x);"), [""; 0]);
    assert_eq!(of("template <class T, bool b = (1 < 2)>"), [""; 0]);
}

#[test]
fn a_merge_leaves_out_its_second_operand() {
    assert_eq!(of("mine = merge(mine, parts[other]);"), ["mine = merge(mine, mine);"]);
    assert_eq!(of("Moments merged(Moments a, Moments b) {"), [""; 0]);
}

#[test]
fn comments_and_what_the_preprocessor_chooses_stay() {
    let text = "#if A < B\nint a = 1 + 2;\n#else\nint a = 1 - 2;\n#endif\n// 1 + 2\n#define ADD(a, b) \\\n    a + b\nint c = 3;\n";
    assert_eq!(mutants::mutants("some.cuh", text), []);
}

#[test]
fn a_mutant_knows_its_line_and_makes_the_whole_file() {
    let text = "int a = 1;\n    int b = 2 / a;  // half\n";
    let [mutant] = &mutants::mutants("some.cu", text)[..] else { panic!("one mutant") };
    assert_eq!((mutant.line_number, mutant.line.as_str()), (2, "int b = 2 / a;  // half"));
    assert_eq!(mutant.apply(text), "int a = 1;\n    int b = 2 * a;  // half\n");
}

#[test]
fn a_mutant_counts_for_the_kernels_that_come_to_its_place() {
    let main = r#"
#include "parts.cuh"

namespace {

constexpr int THREADS = 2 * 128;  // of a block, of all but second

/// first calls this
template <class T>
__device__ T helper(T x) {
    return deeper(x) + 1;
}

__device__ float unused(float x) { return x - 3; }

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS)
    first(const float* x, float* y) {
    y[0] = helper(x[0]) * 5;
}

/// y = second of first
extern "C" __global__ void second(float* y) { y[0] += COUNT; }

WRITTEN_KERNEL(third, Half, 64)
WRITTEN_KERNEL(fourth, Whole, 32)
"#;
    let parts = r#"
struct Half {
    int bits;
};
template <class T>
struct Unit;
template <>
struct Unit<Half> {
    int of(int a) { return a / 7; }
};
template <>
struct Unit<Whole> {
    int of(int a) { return a / 9; }
};
#if CORONET_ARCH >= 80
inline float deeper(float x) { return x % 11; }
#else
inline float deeper(float x) { return x; }
#endif
inline constexpr int COUNT = 12 + 1;
#define WRITTEN_KERNEL(NAME, TYPE, ROWS)                  \
    extern "C" __global__ void __launch_bounds__(THREADS) \
        NAME(const float* x) { Unit<TYPE>().of(ROWS); }
"#;
    let texts = [("main.cu", main), ("parts.cuh", parts)].map(|(name, text)| (name.to_owned(), text.to_owned()));
    let texts = BTreeMap::from(texts);
    let kernels = Kernels::of("main.cu", &texts);
    let at = |word: &str| {
        let mut found = texts.iter().filter_map(|(file, text)| Some(kernels.at(file, text.find(word)?)));
        found.next().unwrap_or_else(|| panic!("no text has {word}"))
    };
    assert_eq!(at("* 5"), ["first"]);
    assert_eq!(at("+ 1;"), ["first"]);
    assert_eq!(at("% 11"), ["first"]);
    assert_eq!(at("- 3"), [""; 0]);
    assert_eq!(at("+= COUNT"), ["second"]);
    assert_eq!(at("12 + 1"), ["second"]);
    assert_eq!(at("2 * 128"), ["first", "fourth", "third"]);
    assert_eq!(at("a / 7"), ["third"]);
    assert_eq!(at("a / 9"), ["fourth"]);
}

#[test]
fn every_mutant_of_our_kernels_counts_for_one_at_least_and_every_kernel_has_some() {
    let mut texts = BTreeMap::new();
    for entry in std::fs::read_dir("kernels").unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_file() && !name.starts_with("conformance") {
            texts.insert(name.to_owned(), std::fs::read_to_string(&path).unwrap());
        }
    }
    let mut kernels = Kernels::default();
    texts.keys().filter(|name| name.ends_with(".cu")).for_each(|name| kernels.extend(Kernels::of(name, &texts)));
    let mut with_mutants = BTreeSet::new();
    for (file, text) in &texts {
        for mutant in mutants::mutants(file, text) {
            let of = kernels.at(file, mutant.span.start);
            assert!(!of.is_empty(), "{file}:{}: {}", mutant.line_number, mutant.mutated);
            with_mutants.extend(of);
        }
    }
    let heads = texts.values().map(|text| text.matches("extern \"C\" __global__").count()).sum::<usize>();
    let by_macro = texts.values().map(|text| text.matches("\nCONV_").count()).sum::<usize>();
    assert_eq!(with_mutants.len(), heads - 4 + by_macro, "four heads are in macros");
    let head = texts["conv.cu"].find(" conv_filter_grad(").unwrap();
    assert_eq!(kernels.at("conv.cu", head), ["conv_filter_grad"]);
}

/// What a run over all mutants of `y = a + b;` says, which are `y = a - b;` and no other, when one entry explains it.
fn report_of(fate: Fate, explained: bool) -> Report {
    let text = "extern \"C\" __global__ void sum(int a, int b, int* y) {\n    *y = a + b;\n}\n";
    let mutants = mutants::mutants("some.cu", text);
    let [mutant] = &mutants[..] else { panic!("one mutant, not {mutants:?}") };
    let entry = survivors::Explained {
        file: "some.cu".into(),
        line: mutant.line.clone(),
        mutants: vec![mutant.mutated.clone()],
        equivalent: true,
        why: "because".into(),
    };
    let kernels = Kernels::of("some.cu", &BTreeMap::from([("some.cu".to_owned(), text.to_owned())]));
    Report::new(mutants, vec![fate], explained.then_some(entry).into_iter().collect(), kernels)
}

#[test]
fn a_run_is_good_when_enough_are_killed_and_each_survivor_is_explained() {
    let killed = |why: &str| Fate::Killed(why.to_owned());
    let is_good = |fate: Fate, explained| report_of(fate, explained).is_good(true);
    assert!(is_good(killed("1 wrong number"), false));
    assert!(!is_good(killed("1 wrong number"), true), "the explanation is left over");
    assert!(report_of(killed("1 wrong number"), true).is_good(false), "of a part of the mutants nobody knows");
    // What the machine's speed decides leaves no explanation over.
    assert!(is_good(killed(ENDLESS), true));
    assert!(is_good(killed(&format!("{WHEN_CHECKED}a race")), true));
    assert!(!is_good(Fate::Survived, false), "not explained");
    assert!(!is_good(Fate::Survived, true), "none is killed");
    assert!(report_of(Fate::Survived, true).is_good(false));
    assert!(!is_good(Fate::Failed("no compiler".into()), false));
}

#[test]
fn the_report_has_a_line_for_each_kernel() {
    let table = report_of(Fate::Survived, true).table(true);
    let row = table.lines().find(|line| line.starts_with("sum ")).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["sum", "1", "0", "0.0%", "1", "0"]);
    assert!(table.contains("all, each once"), "{table}");
}
