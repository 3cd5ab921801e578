//! Grants on what pg_dump does not dump by itself (a database, large objects): read from the catalogs, written as statements.
//!
//! A grant is kept as a quoted role (or `PUBLIC`), a privilege, and a star where it may be granted on.

/// Writes the SQL expression for the grants in an ACL; none for an ACL that is NULL.
pub(crate) fn listed(acl: &str) -> String {
    format!(
        "coalesce((SELECT array_agg(CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
                   || ' ' || a.privilege_type || CASE WHEN a.is_grantable THEN ' *' ELSE '' END ORDER BY a.n)
                   FROM aclexplode({acl}) WITH ORDINALITY a(grantor, grantee, privilege_type, is_grantable, n)), '{{}}')"
    )
}

/// Writes the statements for grants of these privileges; any other is left out.
pub(crate) fn statements<'a>(grants: &'a [String], privileges: &'a [&'a str], on: &'a str) -> impl Iterator<Item = String> + 'a {
    grants.iter().filter_map(move |grant| {
        let (grant, option) = grant.strip_suffix(" *").map_or((grant.as_str(), ""), |g| (g, " WITH GRANT OPTION"));
        // A role's name may hold blanks: the privilege is the last word.
        let (role, privilege) = grant.rsplit_once(' ')?;
        privileges.contains(&privilege).then(|| format!("GRANT {privilege} ON {on} TO {role}{option};"))
    })
}
