-- Opens the cursor harkara_export over the rows of the running transaction's tenant in a table, as JSON without the
-- columns p_left_out. Runs with the rights of that transaction.
create or replace function app.open_export_cursor(p_table text, p_left_out text[]) returns void
language plpgsql volatile as $$
declare
    rows refcursor := 'harkara_export';
begin
    open rows no scroll for execute format(
        'select (to_jsonb(t) - $1)::text from app.%I t where t.%I = app.current_tenant()',
        p_table, case p_table when 'tenants' then 'id' else 'tenant_id' end
    ) using p_left_out;
end
$$;

revoke execute on function app.open_export_cursor(text, text[]) from public;
grant execute on function app.open_export_cursor(text, text[]) to harkara_app;
