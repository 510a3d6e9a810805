//! What is wrong at present, by the step that found it: a step that is not taken again leaves what it found.

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Errors {
    pub(super) source: Vec<String>,
    pub(super) scan: Vec<String>,
    pub(super) places: Vec<String>,
    pub(super) connections: Vec<String>,
    pub(super) tables: Vec<String>,
    /// What does not fit into the tables.
    pub(super) room: Vec<String>,
    pub(super) interfaces: Vec<String>,
}

impl Errors {
    pub(super) fn list(&self) -> Vec<String> {
        let Self { source, scan, places, connections, tables, room, interfaces } = self;
        [source, scan, places, connections, tables, room, interfaces].into_iter().flatten().cloned().collect()
    }
}
