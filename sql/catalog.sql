-- The catalog: fitted models as rows beside the data. Name and model are all an INSERT needs; what else there is to
-- know stands in the model's own header and is read from there, in plain SQL, also where vecpipe is not installed.
CREATE SCHEMA IF NOT EXISTS vecpipe;

CREATE SEQUENCE IF NOT EXISTS vecpipe.model_version;

CREATE TABLE IF NOT EXISTS vecpipe.models (
    name VARCHAR NOT NULL CHECK (NOT regexp_matches(name, '@[0-9]+$')),  -- 'name@3' asks for version 3 of 'name'
    version BIGINT NOT NULL DEFAULT nextval('vecpipe.model_version'),
    created_at TIMESTAMP NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'),
    model BLOB NOT NULL,
    header VARCHAR GENERATED ALWAYS AS (
        TRY(json_extract_string(
            decode(array_slice(model, 9, 8
                + ('0x' || hex(array_slice(model, 1, 1)))::BIGINT
                + ('0x' || hex(array_slice(model, 2, 2)))::BIGINT * 256
                + ('0x' || hex(array_slice(model, 3, 3)))::BIGINT * 65536)),
            '$.__metadata__.vecpipe'))
    ) VIRTUAL,
    hash VARCHAR GENERATED ALWAYS AS (json_extract_string(header, '$.hash')) VIRTUAL,
    spec VARCHAR GENERATED ALWAYS AS (json_extract_string(header, '$.record.spec')) VIRTUAL,
    input_dim BIGINT GENERATED ALWAYS AS (json_extract_string(header, '$.record.dim')::BIGINT) VIRTUAL,
    output_type VARCHAR GENERATED ALWAYS AS (json_extract_string(header, '$.record.output')) VIRTUAL,
    bytes_per_vector BIGINT GENERATED ALWAYS AS (json_extract_string(header, '$.record.bytes')::BIGINT) VIRTUAL,
    fitted_rows BIGINT GENERATED ALWAYS AS (json_extract_string(header, '$.record.rows')::BIGINT) VIRTUAL
);
