//! What mutation testing breaks, see `tools/mutation/main.rs`: the exact mutants of small texts.

#[path = "../tools/mutation/mutants.rs"]
mod mutants;

/// What the mutants make of a text's only line.
fn of(line: &str) -> Vec<String> {
    mutants::mutants("some.cu", line).into_iter().map(|mutant| mutant.mutated).collect()
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
