//! JSON Schemas of the `--json` output of commands: the files in docs/schemas. A test generates them from the
//! printed types, so the program does not contain the generator.

#[cfg(test)]
mod generate;

use utoipa::ToSchema;

/// The output of a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printed {
    /// The command, with hyphens between its words.
    pub(crate) command: &'static str,
    /// Its JSON Schema.
    pub(crate) schema: &'static str,
    #[cfg(test)]
    make: fn(&str) -> serde_json::Value,
}

#[cfg_attr(
    not(test),
    expect(clippy::extra_unused_type_parameters, reason = "only the test uses the types")
)]
impl Printed {
    /// Declares that a command prints one object of this type.
    pub(crate) const fn of<T: ToSchema>(command: &'static str, schema: &'static str) -> Self {
        Self {
            command,
            schema,
            #[cfg(test)]
            make: generate::document::<T>,
        }
    }

    /// Declares that a command prints a line of this type for each event.
    pub(crate) const fn lines_of<T: ToSchema>(command: &'static str, schema: &'static str) -> Self {
        Self {
            command,
            schema,
            #[cfg(test)]
            make: generate::lines::<T>,
        }
    }

    /// Declares that a command prints a bare mesh event on each line.
    pub(crate) const fn events(command: &'static str, schema: &'static str) -> Self {
        Self {
            command,
            schema,
            #[cfg(test)]
            make: generate::bare_event,
        }
    }

    /// Generates the schema.
    #[cfg(test)]
    pub(crate) fn generate(self) -> serde_json::Value {
        (self.make)(self.command)
    }
}
