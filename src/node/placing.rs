//! What a job says, before it begins, of where its directories go and of whom its entries belong to.

use crate::fs::{Filesystem, Traits};
use crate::model::Policy;
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

/// Says that quota projects are wanted, and in use in the source, but cannot be kept in the target.
pub fn lost_projects(policy: &Policy, source: &Traits, target: &Traits) -> Option<&'static str> {
    let lost = policy.projects && source.projects && !target.projects && !target.forgets;
    lost.then_some("the target keeps no quota projects: they are lost")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::layers::pretend::{self, Mdts};
    use crate::fs::{self, Options, Side};
    use crate::model::JobId;
    use crate::model::lustre::MdtPolicy;

    #[test]
    fn projects_that_cannot_be_kept_are_said() {
        let (has, lacks) = (Traits { projects: true, ..Traits::default() }, Traits::default());
        let policy = Policy { projects: true, ..Policy::default() };
        assert!(lost_projects(&policy, &has, &lacks).is_some());
        assert_eq!(lost_projects(&Policy { projects: false, ..Policy::default() }, &has, &lacks), None);
        assert_eq!(lost_projects(&policy, &has, &has).or(lost_projects(&policy, &lacks, &lacks)), None);
        assert_eq!(lost_projects(&policy, &has, &Traits { forgets: true, ..lacks }), None, "nothing is kept there");
    }

    #[test]
    fn what_the_policy_names_in_vain_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().as_os_str().as_encoded_bytes();
        let real = fs::open(path, Side::Source, &Options::new(JobId::random())).unwrap();
        let target = pretend::over(real.clone(), &Mdts::new(&[0, 2]));
        let said = |list: &[u32], target: &dyn Filesystem| {
            let mdt = MdtPolicy::List(list.to_vec());
            missing_mdts(&LustrePolicy { mdt, ..LustrePolicy::default() }, target)
        };
        assert_eq!(said(&[0, 2], target.as_ref()), None);
        assert_eq!(said(&[0, 3], real.as_ref()), None, "no Lustre");
        let one = said(&[0, 3], target.as_ref()).unwrap();
        assert_eq!(one, "MDT 3 is not active on the target: directories meant for it go to the next");
        let two = said(&[7, 0, 3, 7], target.as_ref()).unwrap();
        assert_eq!(two, "MDTs 7, 3 are not active on the target: directories meant for them go to the next");
        assert_eq!(missing_mdts(&LustrePolicy::default(), target.as_ref()), None);
    }
}
