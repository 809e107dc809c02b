//! What a job says of where its directories go, before it begins.

use crate::fs::Filesystem;
use crate::model::lustre::{LustrePolicy, Placer};

/// MDTs that the policy names and that the target has not, or that are not active. None if all is as it is wanted.
pub fn missing_mdts(policy: &LustrePolicy, target: &dyn Filesystem) -> Option<String> {
    let placer = Placer::new(policy, &target.servers()?.mdts)?;
    let missing: Vec<String> = placer.missing().iter().map(u32::to_string).collect();
    match missing.as_slice() {
        [] => None,
        [mdt] => Some(format!("MDT {mdt} is not active on the target: directories meant for it go to the next")),
        all => {
            let all = all.join(", ");
            Some(format!("MDTs {all} are not active on the target: directories meant for them go to the next"))
        }
    }
}
