-- Numbers that a caller gives, checked: the value itself, or an error that names it. The casts matter: without one the
-- type of a NULL is not known, and DuckDB makes NULL of whatever it is given to.

CREATE OR REPLACE MACRO _vec_positive(value, what) AS
    CASE WHEN value > 0 AND isfinite(value::DOUBLE) THEN value
         ELSE error(what || ' is ' || coalesce(value::VARCHAR, 'NULL') || '; expected more than 0') END::DOUBLE;

CREATE OR REPLACE MACRO _vec_finite(value, what) AS
    CASE WHEN isfinite(value::DOUBLE) THEN value
         ELSE error(what || ' is ' || coalesce(value::VARCHAR, 'NULL') || '; expected a number') END::DOUBLE;

-- Scores are FLOAT: a bound of 0.9 is the FLOAT nearest to it, and minus infinity bounds nothing.
CREATE OR REPLACE MACRO _vec_score_bound(value, what) AS
    CASE WHEN NOT isnan(value::DOUBLE) THEN value
         ELSE error(what || ' is ' || coalesce(value::VARCHAR, 'NULL') || '; expected a number') END::FLOAT;

CREATE OR REPLACE MACRO _vec_not_negative(value, what) AS
    CASE WHEN value >= 0 AND isfinite(value::DOUBLE) THEN value
         ELSE error(what || ' is ' || coalesce(value::VARCHAR, 'NULL') || '; expected a number of at least 0') END::DOUBLE;

CREATE OR REPLACE MACRO _vec_count(value, what) AS
    CASE WHEN value >= 1 AND value = floor(value) THEN value
         ELSE error(what || ' is ' || coalesce(value::VARCHAR, 'NULL') || '; expected a whole number of at least 1')
    END::BIGINT;
