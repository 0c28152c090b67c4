//! Compiles the protos without protoc, and turns their options into tables:
//! method policies, error reasons, and debug output that redacts secrets.

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage as _, Value};

const FILES: [&str; 7] = [
    "nullspace/agent/v1/agent.proto",
    "nullspace/v1/command.proto",
    "nullspace/v1/errors.proto",
    "nullspace/v1/file.proto",
    "nullspace/v1/options.proto",
    "nullspace/v1/sandbox.proto",
    "nullspace/v1/system.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=nullspace");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    let with_options = compiler.encode_file_descriptor_set();
    let pool = DescriptorPool::decode(with_options.as_slice())?;
    fs::write(out.join("descriptors.bin"), &with_options)?;
    fs::write(out.join("policies.rs"), policies(&pool)?)?;
    fs::write(out.join("reasons.rs"), reasons(&pool)?)?;
    fs::write(out.join("redacted.rs"), redacted(&pool)?)?;

    let mut config = tonic_prost_build::Config::new();
    config.btree_map(["."]).bytes(["."]);
    config.skip_debug(secret_messages(&pool)?.iter().map(|message| format!(".{}", message.full_name())));
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::codec::ProtoCodec")
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    Ok(())
}

/// One row per method: path, policy, whether the first message is `open`, and
/// whether it streams.
fn policies(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let extension =
        pool.get_extension_by_name("nullspace.v1.method_policy").ok_or("options.proto lacks `method_policy`")?;
    let mut rows = String::from("&[\n");
    for service in pool.services().filter(|service| service.full_name().starts_with("nullspace.")) {
        for method in service.methods() {
            let options = method.options();
            if !options.has_extension(&extension) {
                return Err(format!("{} has no policy", method.full_name()).into());
            }
            let value = options.get_extension(&extension);
            let policy = value.as_message().ok_or("`method_policy` is not a message")?;
            writeln!(
                rows,
                "Method {{ path: \"/{}/{}\", sandbox_plane: {}, scope: {:?}, idempotency: Idempotency::{}, wakes: {}, \
                 activity: {}, bulk: {}, opens: {}, streams: {} }},",
                service.full_name(),
                method.name(),
                enum_name(policy, "plane")? == "PLANE_SANDBOX",
                string(policy, "scope"),
                camel(&enum_name(policy, "idempotency")?, "IDEMPOTENCY_"),
                boolean(policy, "wakes"),
                boolean(policy, "activity"),
                boolean(policy, "bulk"),
                method.is_client_streaming(),
                method.is_client_streaming() || method.is_server_streaming(),
            )?;
        }
    }
    rows.push(']');
    Ok(rows)
}

/// One row per error reason: name on the wire, code, whether it is retryable, what to do.
fn reasons(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let extension =
        pool.get_extension_by_name("nullspace.v1.reason_policy").ok_or("options.proto lacks `reason_policy`")?;
    let reasons = pool.get_enum_by_name("nullspace.v1.ErrorReason").ok_or("errors.proto lacks ErrorReason")?;
    let mut rows = String::from("&[\n");
    for value in reasons.values().filter(|value| value.number() != 0) {
        let options = value.options();
        if !options.has_extension(&extension) {
            return Err(format!("{} has no reason option", value.full_name()).into());
        }
        let policy = options.get_extension(&extension);
        let policy = policy.as_message().ok_or("`reason` is not a message")?;
        let name = value.name().strip_prefix("ERROR_REASON_").ok_or("a reason lacks its prefix")?;
        writeln!(
            rows,
            "ReasonRow {{ reason: Reason::{}, name: {name:?}, code: {}, retryable: {}, action: {:?} }},",
            camel(value.name(), "ERROR_REASON_"),
            policy.get_field_by_name("code").and_then(|value| value.as_i32()).unwrap_or(2),
            boolean(policy, "retryable"),
            string(policy, "action"),
        )?;
    }
    rows.push(']');
    Ok(rows)
}

fn secret_messages(pool: &DescriptorPool) -> Result<Vec<MessageDescriptor>, Box<dyn Error>> {
    let secret = pool.get_extension_by_name("nullspace.v1.secret_field").ok_or("options.proto lacks `secret_field`")?;
    Ok(pool
        .all_messages()
        .filter(|message| message.fields().any(|field| field.options().has_extension(&secret)))
        .collect())
}

/// `Debug` of each message that has a secret field, with that field redacted.
fn redacted(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let secret = pool.get_extension_by_name("nullspace.v1.secret_field").ok_or("options.proto lacks `secret_field`")?;
    let mut code = String::new();
    for message in secret_messages(pool)? {
        let module = message.package_name().replace('.', "::").replacen("nullspace", "crate", 1);
        writeln!(code, "impl std::fmt::Debug for {module}::{} {{", message.name())?;
        writeln!(code, "fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {{")?;
        write!(code, "f.debug_struct({:?})", message.name())?;
        let plain = message.fields().filter(|field| {
            field.containing_oneof().is_none_or(|oneof| oneof.is_synthetic()) && !field.options().has_extension(&secret)
        });
        for field in plain {
            write!(code, ".field({0:?}, &self.{0})", field.name())?;
        }
        for field in message.fields().filter(|field| field.options().has_extension(&secret)) {
            write!(code, ".field({:?}, &crate::Redacted)", field.name())?;
        }
        // A oneof of such a message, the program of a command, may hold secrets
        // too, and the generator derives no Debug for it.
        writeln!(code, ".finish_non_exhaustive() }} }}")?;
    }
    Ok(code)
}

fn enum_name(message: &DynamicMessage, field: &str) -> Result<String, Box<dyn Error>> {
    let descriptor = message.descriptor().get_field_by_name(field).ok_or("missing field")?;
    let kind = descriptor.kind();
    let kind = kind.as_enum().ok_or("not an enum")?;
    let number = message.get_field(&descriptor).as_enum_number().ok_or("not an enum value")?;
    let value = kind.get_value(number).ok_or("unknown enum value")?;
    if number == 0 {
        return Err(format!("{field} is unspecified").into());
    }
    Ok(value.name().to_owned())
}

fn string(message: &DynamicMessage, field: &str) -> String {
    message.get_field_by_name(field).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn boolean(message: &DynamicMessage, field: &str) -> bool {
    matches!(message.get_field_by_name(field).as_deref(), Some(Value::Bool(true)))
}

fn camel(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).split('_').map(|word| word[..1].to_owned() + &word[1..].to_lowercase()).collect()
}
