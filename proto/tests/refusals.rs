//! What the generators refuse. Each is a promise that would otherwise be believed and not kept.

use crate::{
    compile,
    generate::{policy, rules},
};

/// The error of a file with one message of this body.
fn message(body: &str) -> String {
    compile(&format!("message M {{ {body} }}")).and_then(|pool| rules::generate(&pool)).expect_err(body)
}

/// The error of a file with one method of these options.
fn method(options: &str) -> String {
    let file = format!(
        "service S {{ rpc Do(DoRequest) returns (google.protobuf.Empty) {{ {options} }} }} message DoRequest {{ string a = 1; int32 b = 2; }}"
    );
    compile(&file).and_then(|pool| policy::all(&pool)).expect_err(options)
}

#[test]
fn a_rule_that_is_not_enforced_does_not_build() {
    for (body, error) in [
        ("string a = 1 [(buf.validate.field).string.ipv4 = true];", "ipv4"),
        (
            "string a = 1 [(buf.validate.field).int32.gt = 1];",
            "mercato.t.v1.M.a: the validation generator does not know `int32 on a field that is not string`",
        ),
        ("repeated string a = 1 [(buf.validate.field).string.max_len = 1];", "does not know `string on a field that is not repeated`"),
        ("string a = 1 [(buf.validate.field).cel = {id: \"x\" expression: \"this != ''\"}];", "cel"),
        ("int32 a = 1 [(buf.validate.field).int32 = {gt: 5 lt: 3}];", "mercato.t.v1.M.a: int32.gt 5 and lt 3 leave no value"),
        ("string a = 1 [(buf.validate.field).string.pattern = \"(\"];", "regex parse error"),
        ("option (buf.validate.message).oneof = {fields: [\"a\"]}; string a = 1;", "oneof"),
        ("string a = 1 [(buf.validate.field).string.max_length = 3];", "max_length"),
        ("oneof o { string a = 1 [(buf.validate.field).required = true]; }", "does not know `required on a member of a oneof`"),
    ] {
        let refused = message(body);
        assert!(refused.contains(error), "{body}\n{refused}");
    }
}

#[test]
fn a_message_without_rules_is_still_checked() {
    let pool = compile("message M { int32 a = 1; }").expect("a plain message");
    let code = rules::generate(&pool).expect("no rules");
    assert!(code.contains("impl crate::validate::Validate for crate::mercato::t::v1::M"));
}

#[test]
fn a_rule_over_several_fields_calls_its_twin() {
    let body = "message M { option (buf.validate.message).cel = {id: \"m.sorted\" message: \"b before a\" expression: \"this.a <= this.b\"}; int32 a = 1; int32 b = 2; }";
    let code = rules::generate(&compile(body).expect("a rule in CEL")).expect("a named rule");
    assert!(code.contains("if !crate::named::m_sorted(self) { out.add(at, \"m.sorted\", \"b before a\"); }"), "{code}");
}

#[test]
fn a_method_without_a_whole_policy_does_not_build() {
    let option = |policy: &str| format!("option (mercato.options.v1.method) = {{{policy}}};");
    for (options, error) in [
        (String::new(), "mercato.t.v1.S.Do: no (mercato.options.v1.method) option; every RPC states who may call it"),
        (option("idempotency: IDEMPOTENCY_KEY"), "mercato.t.v1.S.Do: (mercato.options.v1.method) names no caller"),
        (option("public: false, idempotency: IDEMPOTENCY_KEY"), "names no caller"),
        (option("public: true"), "mercato.t.v1.S.Do: (mercato.options.v1.method) states no idempotency"),
        (option("roles: {}, idempotency: IDEMPOTENCY_KEY"), "`roles` without a role lets nobody in"),
        (
            option("owner_field: \"c\", idempotency: IDEMPOTENCY_KEY"),
            "owner_field `c` is not a plain string field of mercato.t.v1.DoRequest",
        ),
        (option("owner_field: \"b\", idempotency: IDEMPOTENCY_KEY"), "owner_field `b` is not a plain string field"),
        (option("public: true, or_roles: [\"admin\"], idempotency: IDEMPOTENCY_KEY"), "`or_roles` means something only beside"),
        (option("public: true, idempotency: IDEMPOTENCY_KEY, http_success: 302"), "http_success 302 is not"),
        (option("user: true, idempotency: IDEMPOTENCY_KEY, quota: QUOTA_SIGNED"), "`quota` means something only for public changes"),
        (
            option("public: true, idempotency: IDEMPOTENCY_READ_ONLY, quota: QUOTA_SIGN_IN"),
            "`quota` means something only for public changes",
        ),
        (option("public: true, idempotency: IDEMPOTENCY_KEY, deadline: {}"), "the deadline must be at least 1 ms"),
        (
            option("peer: true, idempotency: IDEMPOTENCY_READ_ONLY") + "option (google.api.http) = {get: \"/a\"};",
            "mercato.t.v1.S.Do: a peer method must not have google.api.http",
        ),
    ] {
        let refused = method(&options);
        assert!(refused.contains(error), "{options}\n{refused}");
    }
}
